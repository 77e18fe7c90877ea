"""Conditional logit on frozen features: the linear baseline of multiple choice, its penalty chosen on dev.

Each choice's score is linear in its features, and a softmax over the choices of an example gives their probabilities
(McFadden, "Conditional logit analysis of qualitative choice behavior", 1974).
"""

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from beft.errors import BeftError
from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import LinearClassifier, best_fit_on_dev, standardisation
from beft.heads.logistic_regression import C_GRID, TOLERANCE
from beft.problems.multiple_choice import MultipleChoice
from beft.process_state import one_blas_thread


def fit_conditional_logit(
    train_features: Features,
    train_rows: Any,
    dev_features: Features | None,
    dev_rows: Any,
    *,
    metric: str = "accuracy",
    costs: Sequence[float] = C_GRID,
    choose_by: Literal["metric", "loss"] = "metric",
    scaling: Literal["each", "one"] = "each",
) -> LinearClassifier:
    """Fit on train with every C, and keep the one that is best on dev.

    Args:
        train_features: Of every choice, [sequences, hidden].
        train_rows: ``LabelledRows`` that say which choices belong together, and which are right.
        dev_features: [sequences, hidden]; None: C is 1.
        dev_rows: ``LabelledRows``.
        metric: What is best on dev; equals are decided by cross-entropy, then by the smaller C.
        choose_by: Whether the metric comes first, or the cross-entropy alone decides.
        scaling: Whether each feature is divided by its own standard deviation, or all by one number, their mean.

    Raises:
        InputError: Features and rows that do not fit.
        BeftError: A fit did not converge.
    """
    train = FeatureRows.of(MultipleChoice(), train_features, train_rows, "train")
    started = time.perf_counter()
    mean, deviation = standardisation(train.features, scaling)
    standardised = (train.features - mean) / deviation

    def layer(cost: float) -> tuple[Floats, Floats]:
        # A number that all choices share changes no probability: there is no bias.
        return np.atleast_2d(_converged(train, standardised, cost) / deviation), np.zeros(1)

    if dev_features is None:
        weight, bias = layer(1.0)
        details: dict[str, Any] = {"C": 1.0}
    else:
        dev = FeatureRows.of(MultipleChoice(), dev_features, dev_rows, "dev")
        candidates = ((cost, -cost, *layer(cost)) for cost in sorted(costs))
        weight, bias, details = best_fit_on_dev("C", candidates, dev, metric, by_loss=choose_by == "loss")
    return LinearClassifier(weight, bias, train.features.shape[1], time.perf_counter() - started, details)


def conditional_logit_head(
    features: Features, rows: Any, *, dev_features: Features | None = None, dev_rows: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A conditional logit as a plain linear layer where a head may start: weight [1, hidden] and bias [1], fp32."""
    return fit_conditional_logit(features, rows, dev_features, dev_rows, choose_by="loss", scaling="one").as_tensors()


def _converged(train: FeatureRows, features: Floats, cost: float) -> Floats:
    """The weight [hidden] at which C times the sum of losses, plus half the squared norm, is least."""
    from scipy.optimize import minimize

    rows = len(train.labels)
    every = torch.arange(rows)

    def value_and_slope(weight: Floats) -> tuple[float, Floats]:
        scores = features @ weight
        slope = train.gradient(torch.from_numpy(scores)[None, :, None], every)[0, :, 0].numpy()
        value = train.loss(scores[:, None]) + weight @ weight / (2 * cost * rows)
        return float(value), features.T @ slope + weight / (cost * rows)

    with one_blas_thread():
        found = minimize(
            value_and_slope,
            np.zeros(features.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": TOLERANCE, "ftol": 1e-14, "maxiter": 10_000, "maxfun": 20_000},
        )
    if not np.abs(value_and_slope(found.x)[1]).max() < 100 * TOLERANCE:
        raise BeftError(
            f"a conditional logit with C = {cost:g} did not converge; are the features of a sensible scale?"
        )
    return np.asarray(found.x)
