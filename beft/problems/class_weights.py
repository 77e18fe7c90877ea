"""Weights of the training loss that make up for classes of unequal size."""

import numpy as np

from beft.errors import InputError
from beft.problems.problem_type import ProblemType


def check_class_weights(class_weights: str, problem_type: ProblemType) -> None:
    """Check that a problem type has the classes that the setting ``class_weights`` weighs.

    Raises:
        InputError: It has none.
    """
    if class_weights != "none" and not problem_type.has_classes:
        raise InputError(
            f"class_weights is {class_weights}, but the problem type {problem_type.name!r} has no classes that all "
            "examples share: set class_weights of probe and train to none"
        )


def example_weights(class_weights: str, problem_type: ProblemType, targets: np.ndarray) -> np.ndarray:
    """The factor of each example's training loss, fp64, [examples].

    Args:
        class_weights: ``none``: 1 for every example; ``balanced``: examples / (classes * examples of its class), as
            ``sklearn.utils.class_weight.compute_class_weight``: their sum is that of ones, and each class has the same
            share of it.
        targets: Of the train examples, as in ``LabelledRows.labels``.

    Raises:
        InputError: The problem type has no classes.
    """
    check_class_weights(class_weights, problem_type)
    if class_weights == "none":
        return np.ones(len(targets))
    _, classes, counts = np.unique(targets, return_inverse=True, return_counts=True)
    weights: np.ndarray = (len(targets) / (len(counts) * counts))[classes]
    return weights
