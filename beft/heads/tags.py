"""Logistic regression of the tags of words on frozen token features, its C chosen by the spans that it finds on dev."""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from beft.encoding.examples import LabelledRows
from beft.encoding.iob2 import NO_WORD
from beft.heads.feature_rows import FeatureRows, Features, feature_array
from beft.heads.linear import LinearClassifier, best_fit_on_dev, checked
from beft.heads.logistic_regression import C_GRID, logistic_path
from beft.problems.problem_type import ProblemType

TAG_C_GRID: tuple[float, ...] = C_GRID[::3]
"""One C to a factor of ten: words are ten times as many as texts, and so is the time of a fit."""


def fit_tag_regression(
    problem_type: ProblemType,
    tags: int,
    train: tuple[Features, LabelledRows],
    dev: tuple[Features, LabelledRows] | None,
    *,
    metric: str = "entity_f1",
    costs: Sequence[float] = TAG_C_GRID,
    choose_by: Literal["metric", "loss"] = "metric",
    scaling: Literal["each", "one"] = "each",
    intercept: bool = True,
) -> LinearClassifier:
    """Fit on the words of train with every C, and keep the one that is best on dev.

    Args:
        tags: How many there are; one that train lacks gets a weight of zero.
        train: Features of all words [words, hidden], and their texts.
        dev: Likewise; None: C is 1.
        metric: What is best on dev; equals are decided by the loss, then by the smaller C.
        costs: The values of C.
        choose_by: Whether the metric comes first, or the loss alone decides.
        scaling: Whether each feature is divided by its own standard deviation, or all by one number, their mean.
        intercept: Whether there is a bias; without one the features are not centred either.

    Raises:
        InputError: Features and rows that do not fit, or only one tag in train.
        BeftError: A fit did not converge.
    """
    started = time.perf_counter()
    targets = train[1].labels
    features, words = checked(feature_array(train[0]), targets[targets != NO_WORD], tags, "train")
    tried = sorted(costs) if dev is not None else [1.0]
    path = logistic_path(features, words, tags, tried, scaling, intercept=intercept)
    if dev is None:
        _, weight, bias, _ = next(path)
        details = {"C": 1.0}
    else:
        of_dev = FeatureRows.of(problem_type, dev[0], dev[1], "dev")
        candidates = ((cost, -cost, weight, bias) for cost, weight, bias, _ in path)
        weight, bias, details = best_fit_on_dev("C", candidates, of_dev, metric, by_loss=choose_by == "loss")
    fitted = len(np.unique(words)) * (features.shape[1] + 1)
    return LinearClassifier(weight, bias, fitted, time.perf_counter() - started, details)


def tag_regression_head(
    problem_type: ProblemType,
    tags: int,
    train: tuple[Features, LabelledRows],
    dev: tuple[Features, LabelledRows] | None,
    *,
    intercept: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Such a regression as a plain linear layer where a head may start: weight and bias, fp32.

    Features are of one scale, and dev's loss chooses C, as in ``logistic_regression_head``.
    """
    return fit_tag_regression(
        problem_type, tags, train, dev, choose_by="loss", scaling="one", intercept=intercept
    ).as_tensors()
