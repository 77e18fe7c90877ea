"""Kendall's rank correlation (tau-b) by SciPy, defined where everything is tied as well."""

import numpy as np

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Floats

TAU_RANGE = (-1.0, 1.0)
"""The least and the greatest tau."""


def kendall_tau(first: Floats, second: Floats) -> Floats:
    """Tau-b of scores, over their last axis: 1 where both order alike, -1 where one is the other's reverse.

    Where tau-b is 0 / 0: two sides that tie everything agree (1); where one ties everything and the other does not,
    the one says nothing about the other (0).

    Args:
        first: Scores [..., terms].
        second: Scores [..., terms]; the leading axes are broadcast against those of ``first``.

    Raises:
        InputError: There are fewer than two terms, or not as many on both sides.
    """
    from scipy.stats import kendalltau

    terms = first.shape[-1]
    if terms != second.shape[-1] or terms < 2:
        raise InputError(
            f"a rank correlation needs two terms or more on both sides, not {terms} and {second.shape[-1]}"
        )
    # Without the last digits: two rankings that are the same have a tau of exactly 1.
    tau = np.round(kendalltau(first, second, axis=-1).statistic, 12)
    both_tied = (np.ptp(first, axis=-1) == 0) & (np.ptp(second, axis=-1) == 0)
    return np.where(np.isnan(tau), np.where(both_tied, 1.0, 0.0), tau)
