"""One-vs-rest logistic regression on frozen features: the linear baseline of multi-label data, its C chosen on dev.

Each label is a logistic regression of its own; all have the same C, the one whose label sets are best on dev at the
thresholds that are best there.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import LinearClassifier, best_fit_on_dev, standardisation
from beft.heads.logistic_regression import C_GRID, converged_path
from beft.problems.multi_label import MultiLabel
from beft.progress import with_progress

log = logging.getLogger("beft.heads")


def fit_one_vs_rest(
    train_features: Features,
    train_rows: Any,
    dev_features: Features | None,
    dev_rows: Any,
    *,
    metric: str = "micro_f1",
    costs: Sequence[float] = C_GRID,
    choose_by: Literal["metric", "loss"] = "metric",
    scaling: Literal["each", "one"] = "each",
    intercept: bool = True,
) -> LinearClassifier:
    """Fit on train with every C, and keep the one that is best on dev.

    Mean and standard deviation of the features come from train alone. The fitted layer is folded back, so that it
    reads raw features. A label that no row of train has, or every row, gets a weight of zero and the logit of its
    frequency, one row with it and one without added.

    Args:
        train_features: [rows, hidden]
        train_rows: Label sets [rows, labels] of 1 and 0, or ``LabelledRows``.
        dev_features: [rows, hidden]; None: C is 1.
        dev_rows: Label sets [rows, labels] of 1 and 0, or ``LabelledRows``.
        metric: What is best on dev; equals are decided by the loss, then by the smaller C.
        costs: The values of C.
        choose_by: Whether the metric comes first, or the loss alone decides.
        scaling: Whether each feature is divided by its own standard deviation, or all by one number, their mean.
        intercept: Whether there is a bias; without one the features are not centred either.

    Raises:
        InputError: Features and label sets that do not fit.
        BeftError: A fit did not converge.
    """
    targets = np.asarray(getattr(train_rows, "labels", train_rows))
    problem_type = MultiLabel(targets.shape[1])
    train = FeatureRows.of(problem_type, train_features, train_rows, "train")
    started = time.perf_counter()
    tried = sorted(costs) if dev_features is not None else [1.0]
    path = one_vs_rest_path(train.features, targets, tried, scaling, intercept=intercept)
    if dev_features is None:
        _, weight, bias = next(path)
        details: dict[str, Any] = {"C": 1.0}
    else:
        dev = FeatureRows.of(problem_type, dev_features, dev_rows, "dev")
        candidates = ((cost, -cost, weight, bias) for cost, weight, bias in path)
        weight, bias, details = best_fit_on_dev("C", candidates, dev, metric, by_loss=choose_by == "loss")
    fitted = int(np.ptp(targets, axis=0).sum()) * (train.features.shape[1] + 1)
    return LinearClassifier(weight, bias, fitted, time.perf_counter() - started, details)


def one_vs_rest_path(
    features: Floats,
    targets: NDArray[np.int64],
    costs: Sequence[float],
    scaling: Literal["each", "one"],
    *,
    intercept: bool,
) -> Iterator[tuple[float, Floats, Floats]]:
    """For every C, in the given order: C, weight [labels, hidden] and bias [labels] on raw features.

    Raises:
        BeftError: A fit did not converge.
    """
    mean, deviation = standardisation(features, scaling, intercept=intercept)
    standardised = (features - mean) / deviation
    constant = MultiLabel(targets.shape[1]).best_constant(targets, targets.shape[1]).numpy()
    paths = {
        label: converged_path(standardised, targets[:, label], costs, intercept=intercept)
        for label in np.flatnonzero(np.ptp(targets, axis=0))
    }
    for cost in with_progress(costs, len(costs), "values of C of a logistic regression of each label", log.info):
        weight = np.zeros((targets.shape[1], features.shape[1]))
        bias = constant.copy() if intercept else np.zeros_like(constant)
        for label, path in paths.items():
            _, rows, intercepts, _ = next(path)
            weight[label] = (rows[1] - rows[0]) / deviation
            bias[label] = intercepts[1] - intercepts[0] - weight[label] @ mean
        yield cost, weight, bias


def one_vs_rest_head(
    features: Features,
    rows: Any,
    *,
    dev_features: Features | None = None,
    dev_rows: Any = None,
    intercept: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-vs-rest logistic regression as a plain linear layer where a head may start: weight and bias, fp32.

    Features are of one scale, and dev's loss chooses C, as in ``logistic_regression_head``.
    """
    return fit_one_vs_rest(
        features, rows, dev_features, dev_rows, choose_by="loss", scaling="one", intercept=intercept
    ).as_tensors()
