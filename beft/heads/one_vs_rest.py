"""One-vs-rest logistic regression on frozen features: the linear baseline of multi-label data, its C chosen on dev.

Each label is a logistic regression of its own; all have the same C, the one whose label sets are best on dev at the
thresholds that are best there.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import LinearClassifier, best_fit_on_dev, standardisation
from beft.heads.logistic_regression import C_GRID, converged_fit
from beft.problems.multi_label import MultiLabel


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

    Raises:
        InputError: Features and label sets that do not fit.
        BeftError: A fit did not converge.
    """
    targets = np.asarray(getattr(train_rows, "labels", train_rows))
    problem_type = MultiLabel(targets.shape[1])
    train = FeatureRows.of(problem_type, train_features, train_rows, "train")
    started = time.perf_counter()
    mean, deviation = standardisation(train.features, scaling)
    standardised = (train.features - mean) / deviation

    def layer(cost: float) -> tuple[Floats, Floats]:
        weight = np.zeros((targets.shape[1], train.features.shape[1]))
        bias = problem_type.best_constant(targets, targets.shape[1]).numpy().copy()
        for label in np.flatnonzero(np.ptp(targets, axis=0)):
            rows, intercepts, _ = converged_fit(standardised, targets[:, label], cost)
            weight[label] = (rows[1] - rows[0]) / deviation
            bias[label] = intercepts[1] - intercepts[0] - weight[label] @ mean
        return weight, bias

    def candidates() -> Iterator[tuple[float, float, Floats, Floats]]:
        for cost in sorted(costs):
            yield cost, -cost, *layer(cost)

    if dev_features is None:
        weight, bias = layer(1.0)
        details: dict[str, Any] = {"C": 1.0}
    else:
        dev = FeatureRows.of(problem_type, dev_features, dev_rows, "dev")
        weight, bias, details = best_fit_on_dev("C", candidates(), dev, metric, by_loss=choose_by == "loss")
    fitted = int(np.ptp(targets, axis=0).sum()) * (train.features.shape[1] + 1)
    return LinearClassifier(weight, bias, fitted, time.perf_counter() - started, details)


def one_vs_rest_head(
    features: Features, rows: Any, *, dev_features: Features | None = None, dev_rows: Any = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One-vs-rest logistic regression as a plain linear layer where a head may start: weight and bias, fp32.

    Features are of one scale, and dev's loss chooses C, as in ``logistic_regression_head``.
    """
    return fit_one_vs_rest(features, rows, dev_features, dev_rows, choose_by="loss", scaling="one").as_tensors()
