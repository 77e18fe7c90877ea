"""The linear baseline on frozen features of each problem type that has a head, by one name and one call."""

from collections.abc import Iterator, Mapping

import torch

from beft.encoding.examples import LabelledRows
from beft.encoding.iob2 import NO_WORD
from beft.errors import InputError
from beft.heads.conditional_logit import conditional_logit_head, fit_conditional_logit
from beft.heads.feature_rows import Features, Floats
from beft.heads.linear import LinearClassifier
from beft.heads.logistic_regression import (
    C_GRID,
    FOLDS,
    fit_logistic_regression,
    logistic_path,
    logistic_regression_head,
)
from beft.heads.one_vs_rest import fit_one_vs_rest, one_vs_rest_head, one_vs_rest_path
from beft.heads.ridge_regression import PENALTIES, fit_ridge_regression, ridge_path, ridge_regression_head
from beft.heads.tags import TAG_C_GRID, fit_tag_regression, tag_regression_head
from beft.names import known_name
from beft.problems.problem_type import ProblemType

LINEAR_BASELINES: Mapping[str, str] = {
    "classification": "logistic_regression",
    "multi_label": "logistic_regression",
    "token_classification": "logistic_regression",
    "regression": "ridge_regression",
    "multiple_choice": "conditional_logit",
}
"""The name of the linear model on frozen features, by the name of the problem type."""

_ITERATIONS = 75  # of a fit, mean over C: 69 with 1,000 rows of two labels, 81 with 1,232 rows of 77


def fit_linear_baseline(
    problem_type: ProblemType,
    labels: int,
    features: Mapping[str, Features],
    rows: Mapping[str, LabelledRows],
    *,
    metric: str,
    balanced: bool = False,
) -> LinearClassifier:
    """Fit the problem type's linear model on train, chosen on dev.

    Args:
        labels: How many labels there are, for classification (of texts or of tokens).
        features: Of ``train`` and ``dev``, [sequences, hidden].
        rows: Their examples.
        balanced: Whether all labels of a classification weigh alike, as ``class_weights: balanced``.

    Raises:
        InputError: The shape has no such baseline, or the rows do not fit.
    """
    kind = known_name(problem_type.name, LINEAR_BASELINES, "problem type with a linear baseline")
    train, dev = rows["train"], rows["dev"]
    if kind == "classification":
        return fit_logistic_regression(
            features["train"],
            train.labels,
            features["dev"],
            dev,
            classes=labels,
            metric=metric,
            balanced=balanced,
        )
    if kind == "multi_label":
        return fit_one_vs_rest(features["train"], train, features["dev"], dev, metric=metric)
    if kind == "token_classification":
        words = {split: (features[split], rows[split]) for split in ("train", "dev")}
        tags = problem_type.outputs(labels)
        return fit_tag_regression(problem_type, tags, words["train"], words["dev"], metric=metric)
    fit = fit_ridge_regression if kind == "regression" else fit_conditional_logit
    return fit(features["train"], train, features["dev"], dev, metric=metric)


def linear_head(
    problem_type: ProblemType,
    labels: int,
    train: tuple[Features, LabelledRows],
    dev: tuple[Features, LabelledRows] | None,
    *,
    metric: str,
    seed: int,
    intercept: bool = True,
    cross_validate: bool = True,
    balanced: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A fitted head: weight [outputs, hidden] and bias [outputs] of the problem type's linear model, fp32.

    Args:
        metric: What chooses the penalty of a classification by cross-validation, where there is no dev.
        intercept: Whether the head has a bias; without one the bias is zero.
        cross_validate: Whether C is chosen by cross-validation where there is no dev; else it is 1.
        balanced: Whether all labels of a classification weigh alike, as ``class_weights: balanced``.

    Raises:
        InputError: The shape has no head, or the rows do not fit.
    """
    dev_features, dev_rows = dev if dev is not None else (None, None)
    if problem_type.name == "regression":
        return ridge_regression_head(*train, dev_features=dev_features, dev_values=dev_rows, intercept=intercept)
    if problem_type.name == "multi_label":
        return one_vs_rest_head(*train, dev_features=dev_features, dev_rows=dev_rows, intercept=intercept)
    if problem_type.name == "token_classification":
        return tag_regression_head(problem_type, problem_type.outputs(labels), train, dev, intercept=intercept)
    if problem_type.name == "multiple_choice":
        return conditional_logit_head(*train, dev_features=dev_features, dev_rows=dev_rows)
    if problem_type.name != "classification":
        raise InputError(f"{problem_type.name} has no head that could start anywhere")
    return logistic_regression_head(
        train[0],
        train[1].labels,
        labels,
        seed,
        dev_features=dev_features,
        dev_labels=dev_rows,
        metric=metric,
        intercept=intercept,
        cross_validate=cross_validate,
        balanced=balanced,
    )


def linear_path(
    problem_type: ProblemType,
    labels: int,
    features: Floats,
    rows: LabelledRows,
    *,
    intercept: bool = True,
    balanced: bool = False,
) -> Iterator[tuple[float, Floats, Floats]]:
    """The problem type's linear model with every penalty that its baseline tries, from the strongest on.

    Args:
        intercept: Whether the layer has a bias.
        balanced: Whether all labels of a classification weigh alike, as ``class_weights: balanced``.

    Returns:
        C (of values: minus the penalty), weight [outputs, hidden] and bias [outputs] on raw features, fp64.

    Raises:
        InputError: The problem type has no such path, or there is only one label.
    """
    if problem_type.name == "classification":
        path = logistic_path(features, rows.labels, labels, C_GRID, "each", intercept=intercept, balanced=balanced)
        return ((C, weight, bias) for C, weight, bias, _ in path)
    if problem_type.name == "regression":
        ridge = ridge_path(features, rows.labels, PENALTIES[::-1], "each", intercept=intercept)
        return ((-penalty, weight, bias) for penalty, weight, bias in ridge)
    if problem_type.name == "multi_label":
        return one_vs_rest_path(features, rows.labels, C_GRID, "each", intercept=intercept)
    if problem_type.name == "token_classification":
        tags = rows.labels[rows.labels != NO_WORD]
        costs = sorted(TAG_C_GRID)
        path = logistic_path(features, tags, problem_type.outputs(labels), costs, "each", intercept=intercept)
        return ((C, weight, bias) for C, weight, bias, _ in path)
    raise InputError(f"linear models of every penalty are not made for {problem_type.name}")


def path_operations(problem_type: ProblemType, labels: int, rows: int, width: int) -> float:
    """About how many operations ``linear_path`` takes; 0 for ridge regression, which has a closed form.

    Args:
        rows: Of the features.
        width: Columns of the features.
    """
    fits = len(TAG_C_GRID if problem_type.reads_words else C_GRID)
    return fits * _fit_operations(problem_type, labels, rows, width)


def head_operations(problem_type: ProblemType, labels: int, rows: int, width: int) -> float:
    """About how many operations ``linear_head`` takes without dev; arguments and ridge as in ``path_operations``."""
    fits = 1
    if problem_type.name == "classification":
        fits += (FOLDS - 1) * len(C_GRID)  # C is chosen by cross-validation, each fold fitted on the rows of all others
    return fits * _fit_operations(problem_type, labels, rows, width)


def _fit_operations(problem_type: ProblemType, labels: int, rows: int, width: int) -> float:
    if problem_type.name == "regression":
        return 0.0
    return 4.0 * rows * width * problem_type.outputs(labels) * _ITERATIONS
