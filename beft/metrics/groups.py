"""The exact match of questions that have several rows, each an answer to be judged (MultiRC, Khashabi et al. 2018)."""

import numpy as np

from beft.metrics.weighed import Integers, Sums, mean_of


def group_exact_match(truth: Integers, predicted: Integers, unit: Integers) -> Sums:
    """The share of groups all of whose rows are right.

    Args:
        truth: True label indices [rows].
        predicted: Predicted label indices [rows].
        unit: The group of each row [rows].
    """
    wrong = np.bincount(unit, weights=truth != predicted)
    return mean_of((wrong == 0).astype(np.float64))
