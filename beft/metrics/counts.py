"""Metrics as functions of three counts per label, so that many resamples are computed at once.

Accuracy, F1 and the Matthews correlation need no more of a confusion matrix than, for every label, how often it was
true, how often it was predicted, and how often both.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class LabelCounts(NamedTuple):
    """Sums of row weights per label, each [..., labels]."""

    hits: Floats
    predicted: Floats
    true: Floats


def label_counts(truth: NDArray[np.int64], predicted: NDArray[np.int64], weights: Floats, labels: int) -> LabelCounts:
    """Count hits, predictions and truths of every label.

    Args:
        truth: True label indices [rows].
        predicted: Predicted label indices [rows].
        weights: How often each row occurs [..., rows]; the leading axes are resamples.
        labels: How many labels there are.
    """
    return LabelCounts(*np.split(weights @ label_parts(truth, predicted, labels), 3, axis=-1))


def label_parts(truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: int) -> Floats:
    """What each row adds to the counts [rows, 3 * labels]: to hits, to predictions, to truths.

    Args:
        truth: True label indices [rows].
        predicted: Predicted label indices [rows].
        labels: How many labels there are.
    """
    true_of, predicted_of = np.eye(labels)[truth], np.eye(labels)[predicted]
    return np.concatenate([true_of * predicted_of, predicted_of, true_of], axis=1)


def accuracy(counts: LabelCounts) -> Floats:
    """The share of rows that are right."""
    return np.asarray(counts.hits.sum(-1) / counts.true.sum(-1))


def f1(counts: LabelCounts) -> Floats:
    """The F1 of the second label (index 1), as GLUE has it; 0 where it is neither true nor predicted anywhere."""
    return np.asarray(_f1_of_labels(counts)[..., 1])


def macro_f1(counts: LabelCounts) -> Floats:
    """The mean F1 over the labels that are true or predicted somewhere (scikit-learn's rule)."""
    present = (counts.true + counts.predicted) > 0
    return np.asarray(_f1_of_labels(counts).sum(-1) / present.sum(-1))


def matthews(counts: LabelCounts) -> Floats:
    """The Matthews correlation of two or more labels (Gorodkin 2004); 0 where truth or predictions are constant."""
    rows = counts.true.sum(-1)
    agreement = counts.hits.sum(-1) * rows - (counts.predicted * counts.true).sum(-1)
    varied = (rows**2 - (counts.predicted**2).sum(-1)) * (rows**2 - (counts.true**2).sum(-1))
    return np.asarray(np.divide(agreement, np.sqrt(varied), out=np.zeros_like(agreement), where=varied > 0))


def _f1_of_labels(counts: LabelCounts) -> Floats:
    size = counts.true + counts.predicted
    return np.asarray(np.divide(2 * counts.hits, size, out=np.zeros_like(size), where=size > 0))
