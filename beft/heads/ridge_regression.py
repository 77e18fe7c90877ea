"""Ridge regression on frozen features: the linear baseline of a regression, its penalty chosen on dev."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import LinearClassifier, best_fit_on_dev, standardisation
from beft.problems.regression import Regression
from beft.process_state import one_blas_thread

PENALTIES: tuple[float, ...] = tuple(float(penalty) for penalty in np.logspace(-2, 6, 17))
"""The penalties (scikit-learn's alpha) that are tried: 1e-2 to 1e6, two to a factor of ten."""


def fit_ridge_regression(
    train_features: Features,
    train_values: Any,
    dev_features: Features | None,
    dev_values: Any,
    *,
    metric: str = "pearson",
    penalties: Sequence[float] = PENALTIES,
    choose_by: Literal["metric", "loss"] = "metric",
    scaling: Literal["each", "one"] = "each",
    intercept: bool = True,
) -> LinearClassifier:
    """Fit on train with every penalty, and keep the one that is best on dev.

    Mean and standard deviation of the features come from train alone. The fitted layer is folded back, so that it
    reads raw features; its one output is the value.

    Args:
        train_features: [rows, hidden]
        train_values: Numbers [rows], or ``LabelledRows``.
        dev_features: [rows, hidden]; None: the penalty is chosen by leaving out each row of train in turn.
        dev_values: Numbers [rows], or ``LabelledRows``.
        metric: What is best on dev; equals are decided by squared error, then by the greater penalty.
        choose_by: Whether the metric comes first, or the squared error alone decides.
        scaling: Whether each feature is divided by its own standard deviation, or all by one number, their mean.
        intercept: Whether there is a bias; without one the features are not centred either.

    Raises:
        InputError: Features and values that do not fit.
    """
    from sklearn.linear_model import RidgeCV

    train = FeatureRows.of(Regression(), train_features, train_values, "train")
    started = time.perf_counter()
    if dev_features is None:
        mean, deviation = standardisation(train.features, scaling, intercept=intercept)
        model = RidgeCV(alphas=tuple(penalties), fit_intercept=intercept)
        with one_blas_thread():
            model.fit((train.features - mean) / deviation, train.labels)
        weight, bias = _folded(model, mean, deviation)
        details: dict[str, Any] = {"penalty": float(model.alpha_)}
    else:
        dev = FeatureRows.of(Regression(), dev_features, dev_values, "dev")
        path = ridge_path(train.features, train.labels, sorted(penalties), scaling, intercept=intercept)
        candidates = ((penalty, penalty, weight, bias) for penalty, weight, bias in path)
        weight, bias, details = best_fit_on_dev("penalty", candidates, dev, metric, by_loss=choose_by == "loss")
    return LinearClassifier(weight, bias, train.features.shape[1] + 1, time.perf_counter() - started, details)


def ridge_regression_head(
    features: Features,
    values: Any,
    *,
    dev_features: Features | None = None,
    dev_values: Any = None,
    intercept: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A ridge regression as a plain linear layer where a head may start: weight [1, hidden] and bias [1], fp32.

    Features are of one scale, and the squared error chooses the penalty, as in ``logistic_regression_head``.
    """
    return fit_ridge_regression(
        features, values, dev_features, dev_values, choose_by="loss", scaling="one", intercept=intercept
    ).as_tensors()


def ridge_path(
    features: Floats, values: Floats, penalties: Sequence[float], scaling: Literal["each", "one"], *, intercept: bool
) -> Iterator[tuple[float, Floats, Floats]]:
    """For every penalty, in the given order: the penalty, weight [1, hidden] and bias [1] on raw features."""
    from sklearn.linear_model import Ridge

    mean, deviation = standardisation(features, scaling, intercept=intercept)
    standardised = (features - mean) / deviation
    for penalty in penalties:
        with one_blas_thread():
            model = Ridge(alpha=penalty, solver="svd", fit_intercept=intercept).fit(standardised, values)
        yield penalty, *_folded(model, mean, deviation)


def _folded(model: Any, mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
    """A fit on standardised features as a layer on raw ones."""
    weight = np.atleast_2d(model.coef_ / deviation)
    return weight, np.array([float(model.intercept_) - float(weight[0] @ mean)])
