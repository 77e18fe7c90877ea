"""Logistic regression on frozen features: standardised on train, C chosen on dev, run until it has converged."""

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from beft.errors import BeftError, InputError
from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import Integers, LinearClassifier, Quality, checked, standardisation
from beft.metrics.registry import known_metric
from beft.problems.classification import Classification
from beft.process_state import one_blas_thread
from beft.progress import with_progress

C_GRID: tuple[float, ...] = tuple(float(cost) for cost in np.logspace(-3, 2, 16))
"""The inverse regularisation strengths C that are tried: 1e-3 to 1e2, three to a factor of ten."""

TOLERANCE = 1e-6
"""The largest gradient component (of the mean loss) at which lbfgs stops; scikit-learn's 1e-4 is early at large C."""

FOLDS = 5
"""Of the cross-validation that chooses C where there is no dev; fewer where a label has fewer rows."""

log = logging.getLogger("beft.heads")

Scaling = Literal["each", "one"]


def fit_logistic_regression(
    train_features: Features,
    train_labels: Any,
    dev_features: Features,
    dev_labels: Any,
    *,
    classes: int,
    metric: str = "accuracy",
    costs: Sequence[float] = C_GRID,
    choose_by: Literal["metric", "cross_entropy"] = "metric",
    scaling: Scaling = "each",
    intercept: bool = True,
    balanced: bool = False,
) -> LinearClassifier:
    """Fit on train with every C, and keep the one that is best on dev.

    Mean and standard deviation of the features come from train alone. The fitted layer is folded back, so that it
    reads raw features.

    Args:
        train_features: [rows, hidden]
        train_labels: Label indices [rows].
        dev_features: [rows, hidden]
        dev_labels: Label indices [rows], or the rows, of which a metric may read more (their groups).
        classes: How many labels the dataset declares; one that train lacks gets a weight of zero.
        metric: What is best on dev; equals are decided by cross-entropy, then by the smaller C.
        costs: The values of C.
        choose_by: Whether the metric on dev comes first, or the cross-entropy alone decides.
        scaling: Whether each feature is divided by its own standard deviation, or all by one number, their mean.
        intercept: Whether there is a bias; without one the features are not centred either.
        balanced: Whether all labels of train weigh alike, as ``class_weights: balanced``.

    Raises:
        InputError: Shapes or labels that do not fit, or only one label in train.
    """
    known_metric(metric).check_labels(classes)
    features, labels = checked(train_features, train_labels, classes, "train")
    dev = FeatureRows.of(Classification(), dev_features, dev_labels, "dev")
    checked(dev.features, dev.labels, classes, "dev")
    started = time.perf_counter()
    candidates = []
    for cost, weight, bias, iterations in logistic_path(
        features, labels, classes, sorted(costs), scaling, intercept=intercept, balanced=balanced
    ):
        quality = Quality.on(metric, dev.features @ weight.T + bias, dev, -cost)
        candidates.append((quality, cost, weight, bias, iterations))

    def best(candidate: tuple[Quality, float, Floats, Floats, int]) -> Quality | float:
        return candidate[0].negative_loss if choose_by == "cross_entropy" else candidate[0]

    quality, cost, weight, bias, _ = max(candidates, key=best)
    present = len(np.unique(labels))
    return LinearClassifier(
        weight=weight,
        bias=bias,
        trainable_parameters=(features.shape[1] + 1) * (1 if present == 2 else present),
        seconds=time.perf_counter() - started,
        details={
            "C": cost,
            "metric": metric,
            **quality.facts("cross_entropy"),
            "candidates": [{"C": c, **q.facts("cross_entropy"), "iterations": n} for q, c, _, _, n in candidates],
        },
    )


def logistic_regression_head(
    features: Features,
    labels: Any,
    classes: int,
    seed: int = 0,
    *,
    dev_features: Features | None = None,
    dev_labels: Any = None,
    metric: str = "accuracy",
    intercept: bool = True,
    cross_validate: bool = True,
    balanced: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A converged logistic regression on features of one scale, as a plain linear layer on raw features.

    Training goes on from this layer, and biases below it move its features. Were each feature divided by its own
    deviation, one that hardly varies would get a weight in the thousands, and the first steps would blow the loss up.
    So all are divided by one number, and C is chosen by dev's cross-entropy, which punishes large weights too.

    Its logits are scikit-learn's decision function: for two labels the second logit minus the first, for more each one.

    Args:
        features: What the output layer sees [rows, hidden].
        labels: Label indices [rows].
        classes: How many labels there are.
        seed: Of the folds, when there is no dev.
        dev_features: Rows that choose C by their cross-entropy [rows, hidden]; None: cross-validation on ``features``.
        dev_labels: Their label indices [rows], or the rows, of which a metric may read more.
        metric: What chooses C when there is no dev.
        intercept: Whether the layer has a bias; without one the features are not centred either.
        cross_validate: Whether C is chosen so when there is no dev; else it is 1.
        balanced: Whether all labels of train weigh alike, as ``class_weights: balanced``.

    Returns:
        weight [classes, hidden] and bias [classes], fp32

    Raises:
        InputError: Shapes or labels that do not fit, or only one label.
    """
    if dev_features is not None:
        fitted = fit_logistic_regression(
            features,
            labels,
            dev_features,
            dev_labels,
            classes=classes,
            metric=metric,
            choose_by="cross_entropy",
            scaling="one",
            intercept=intercept,
            balanced=balanced,
        )
        weight, bias = fitted.weight, fitted.bias
    else:
        known_metric(metric).check_labels(classes)
        values, indices = checked(features, labels, classes, "train")
        cost = 1.0
        if cross_validate:
            cost = _cross_validated_cost(values, indices, classes, metric, seed, intercept=intercept, balanced=balanced)
        path = logistic_path(values, indices, classes, [cost], "one", intercept=intercept, balanced=balanced)
        _, weight, bias, _ = next(path)
    return torch.from_numpy(weight).to(torch.float32), torch.from_numpy(bias).to(torch.float32)


def logistic_path(
    features: Floats,
    labels: Integers,
    classes: int,
    costs: Sequence[float],
    scaling: Scaling,
    *,
    intercept: bool,
    balanced: bool = False,
) -> Iterator[tuple[float, Floats, Floats, int]]:
    """For every C, in the given order: C, weight [classes, hidden], bias [classes] on raw features, iterations.

    Raises:
        InputError: Only one label.
        BeftError: A fit did not converge.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"train has only the label {present[0]}; logistic regression needs two or more")
    mean, deviation = standardisation(features, scaling, intercept=intercept)
    standardised = (features - mean) / deviation
    fits = converged_path(standardised, labels, costs, intercept=intercept, balanced=balanced)
    for cost, rows, intercepts, iterations in with_progress(
        fits, len(costs), "values of C of a logistic regression", log.info
    ):
        weight = np.zeros((classes, features.shape[1]))
        bias = np.full(classes, -np.log(len(labels) + 1.0) if intercept else 0.0)
        weight[present] = rows / deviation
        bias[present] = intercepts - (weight[present] * mean).sum(1)
        yield cost, weight, bias, iterations


def converged_path(
    features: Floats, labels: Integers, costs: Sequence[float], *, intercept: bool, balanced: bool = False
) -> Iterator[tuple[float, Floats, Floats, int]]:
    """For every C, in the given order: C, weight [present labels, hidden], bias [present labels], iterations.

    Each fit starts from the one before it: with 77 labels that takes half of the time, for the same solutions. Two
    labels get two rows, one the negative of the other, whose difference is scikit-learn's single row. One BLAS thread,
    so that the bytes do not depend on how many there are.

    Raises:
        BeftError: A fit did not converge.
    """
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if balanced else None
    model = LogisticRegression(tol=TOLERANCE, fit_intercept=intercept, warm_start=True, class_weight=weights)
    for cost in costs:
        for solver, limit in (("lbfgs", 1_000), ("lbfgs", 10_000), ("lbfgs", 100_000), ("newton-cg", 10_000)):
            model.set_params(C=cost, solver=solver, max_iter=limit)
            if _converges(model, features, labels):
                break
        else:
            raise BeftError(
                f"logistic regression with C = {cost:g} did not converge; are the features of a sensible scale?"
            )
        weight, bias = model.coef_.copy(), model.intercept_.copy()
        if len(model.classes_) == 2:
            weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        yield cost, weight, bias, int(np.max(model.n_iter_))


def _converges(model: Any, features: Floats, labels: Integers) -> bool:
    """Fit a model; whether it has converged."""
    from sklearn.exceptions import ConvergenceWarning

    with one_blas_thread(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def _cross_validated_cost(
    features: Floats, labels: Integers, classes: int, metric: str, seed: int, *, intercept: bool, balanced: bool
) -> float:
    """The C with the best mean quality over stratified folds; 1 when a label is too rare to be divided."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    if folds < 2:
        return 1.0
    metric = "accuracy" if known_metric(metric).grouped else metric  # folds cut through the groups
    qualities: dict[float, list[Quality]] = {cost: [] for cost in C_GRID}
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels):
        rows = FeatureRows.of(Classification(), features[held_out], labels[held_out], "the held-out rows")
        for cost, weight, bias, _ in logistic_path(
            features[train], labels[train], classes, C_GRID, "one", intercept=intercept, balanced=balanced
        ):
            qualities[cost].append(Quality.on(metric, rows.features @ weight.T + bias, rows, -cost))

    def mean_quality(cost: float) -> tuple[float, float, float]:
        found = qualities[cost]
        metric_mean = round(float(np.mean([quality.metric for quality in found])), 12)
        return metric_mean, float(np.mean([quality.negative_loss for quality in found])), -cost

    return max(C_GRID, key=mean_quality)
