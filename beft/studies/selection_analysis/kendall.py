"""Kendall's rank correlation (tau-b), for many rankings at once and defined where everything is tied.

Source: M. G. Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945).
"""

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
    terms = first.shape[-1]
    if terms != second.shape[-1] or terms < 2:
        raise InputError(
            f"a rank correlation needs two terms or more on both sides, not {terms} and {second.shape[-1]}"
        )
    one, other = _signs(first), _signs(second)
    concordance = (one * other).sum(axis=-1)
    untied, untied_other = np.abs(one).sum(axis=-1), np.abs(other).sum(axis=-1)
    pairs = np.sqrt(untied * untied_other)
    both_tied = (untied == 0) & (untied_other == 0)
    return np.where(pairs > 0, concordance / np.where(pairs > 0, pairs, 1.0), np.where(both_tied, 1.0, 0.0))


def _signs(scores: Floats) -> Floats:
    """Which of each two terms is higher [..., pairs]."""
    left, right = np.triu_indices(scores.shape[-1], k=1)
    return np.sign(scores[..., left] - scores[..., right])
