"""The cheap baselines of ``train.method: auto``: chosen by cross-validation over the folds that the search has."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from beft.comparison.baselines.head_only import HeadSearch, fit_head_by_folds
from beft.encoding.examples import LabelledRows
from beft.heads.by_problem_type import LINEAR_BASELINES, linear_path, path_operations
from beft.heads.feature_rows import FeatureRows, Floats
from beft.heads.linear import LinearClassifier, Quality
from beft.problems.problem_type import ProblemType
from beft.training.automatic.candidates import NOMINAL_LINEAR_OPERATIONS, repeats_within, weights_are_compared
from beft.training.automatic.cross_validation import linear_out_of_fold, with_held_out_thresholds
from beft.training.automatic.folds import fold_count, repeated_folds
from beft.training.session import Session
from beft.training_settings import ClassWeights

_MINUTES = 1.0  # of the linear model; with many labels, or with words that have tags, it gets fewer divisions


def fit_by_folds(session: Session, pooled: Floats, seen: Floats, rows: LabelledRows) -> Mapping[str, LinearClassifier]:
    """The linear model on pooled features, and the head alone on those that it sees, each fitted on all rows at last.

    Args:
        pooled: [rows, hidden].
        seen: What the output layer sees, [rows, hidden].
        rows: All that may be learnt from.

    Raises:
        InputError: The rows are too few for two folds, or the problem type has no linear model.
    """
    problem_type, labels, seed = session.problem_type, len(session.classifier.labels), session.settings.seed
    folds = linear_folds(problem_type, labels, pooled, rows, seed)
    training = session.head_training(rows=len(rows))
    weights = _class_weights(session, rows)
    return {
        LINEAR_BASELINES[problem_type.name]: fit_linear_by_folds(
            problem_type, labels, pooled, rows, folds, metric=session.metric, class_weights=weights
        ),
        "head_only": fit_head_by_folds(
            seen,
            rows,
            folds[0],
            classes=problem_type.outputs(labels),
            metric=session.metric,
            search=replace(HeadSearch.from_training(training), class_weights=weights),
            seed=seed,
            problem_type=problem_type,
        ),
    }


def _class_weights(session: Session, rows: LabelledRows) -> tuple[ClassWeights, ...]:
    """The class weights that the target's training has, or that ``train.method: auto`` compares for it."""
    training = session.settings.train
    if training.method == "auto" and weights_are_compared(training, session.problem_type, rows.labels):
        return "none", "balanced"
    return (training.class_weights,)


def linear_folds(
    problem_type: ProblemType, labels: int, features: Floats, rows: LabelledRows, seed: int
) -> NDArray[np.int64]:
    """The fold of each row in each division, [repeats, rows]: as many divisions as a minute has time for, about.

    Raises:
        InputError: The rows are too few for two folds.
    """
    folds = fold_count(rows)
    operations = path_operations(problem_type, labels, *features.shape)
    repeats = repeats_within(_MINUTES, (folds - 1) * operations / NOMINAL_LINEAR_OPERATIONS)
    return repeated_folds(rows, folds, repeats, seed)


def fit_linear_by_folds(
    problem_type: ProblemType,
    labels: int,
    features: Floats,
    rows: LabelledRows,
    folds: np.ndarray,
    *,
    metric: str,
    class_weights: Sequence[ClassWeights] = ("none",),
) -> LinearClassifier:
    """The problem type's linear model, with the penalty that is the best over all divisions, fitted on all rows.

    Args:
        features: [rows, hidden].
        folds: The fold of each row in each division, [repeats, rows].
        class_weights: What is tried with each penalty.

    Raises:
        InputError: The problem type has no linear model.
    """
    began = time.perf_counter()
    truth = FeatureRows.of(problem_type, features, rows, "train")
    found = []
    for weights in class_weights:
        for one in linear_out_of_fold(problem_type, labels, features, rows, folds, balanced=weights == "balanced"):
            assert one.outputs is not None and one.penalty is not None  # a linear model does not fail
            of_divisions = [Quality.on(metric, outputs, truth, -one.penalty) for outputs in one.outputs]
            mean = Quality(
                round(float(np.mean([quality.metric for quality in of_divisions])), 12),
                float(np.mean([quality.negative_loss for quality in of_divisions])),
                -one.penalty,
            )
            found.append((mean, one.penalty, weights, one.outputs))
    quality, chosen, weights, outputs = max(found, key=lambda one: one[:2])
    path = linear_path(problem_type, labels, features, rows, balanced=weights == "balanced")
    weight, bias = next((weight, bias) for penalty, weight, bias in path if penalty == chosen)
    return LinearClassifier(
        weight=weight,
        bias=bias,
        trainable_parameters=weight.size + bias.size,
        seconds=time.perf_counter() - began,
        details={
            "penalty" if problem_type.name == "regression" else "C": abs(chosen),
            **_told(weights),
            "metric": metric,
            "folds": int(folds.max()) + 1,
            "repeats": len(folds),
            **quality.facts(truth.loss_name),
            "candidates": [
                {"penalty": abs(penalty), **_told(weights), **one.facts(truth.loss_name)}
                for one, penalty, weights, _ in found
            ],
        },
        problem_type=with_held_out_thresholds(problem_type, outputs, rows),
    )


def _told(weights: ClassWeights) -> dict[str, str]:
    return {} if weights == "none" else {"class_weights": weights}
