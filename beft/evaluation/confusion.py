"""The confusion of labels: how often each was predicted where each was true."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def confusion_of(truth: ArrayLike, predictions: ArrayLike, labels: Sequence[str]) -> dict[str, Any]:
    """The cells of a confusion table that have a row, as JSON.

    Args:
        truth: True label indices, [rows].
        predictions: Probabilities, [rows, labels], of which the greatest counts (the first of equals).
        labels: Names of all labels.

    Returns:
        ``labels``, and ``cells``: lists of the index of the true label, that of the predicted one, and the number of
        rows; as ``sklearn.metrics.confusion_matrix`` has them, without its zeros.
    """
    pairs = np.stack([np.asarray(truth, dtype=np.int64), np.asarray(predictions).argmax(-1)], axis=1)
    cells, rows = np.unique(pairs, axis=0, return_counts=True)
    return {
        "labels": list(labels),
        "cells": [[*map(int, cell), int(count)] for cell, count in zip(cells, rows, strict=True)],
    }
