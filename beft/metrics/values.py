"""The metrics of a regression: two correlations of predicted with true values, under weights of the rows.

Both are 0 where the truth or the predictions are constant, for a correlation is not defined there and a model that
says the same of every row has found nothing.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from beft.metrics.weighed import Floats, Integers, Sums, added_by_unit

_ROUNDING = 1e-12
"""Below this share of the second moment a variance is nothing but rounding."""


def pearson(truth: Floats, predicted: Floats, unit: Integers | None = None) -> Sums:
    """The Pearson correlation of true and predicted values [rows], from weighted sums.

    The sums are of distances from the median, which keeps the variance of a resample from being lost in rounding.
    """
    true, guess = _centred(truth), _centred(predicted)
    parts = np.stack([np.ones_like(true), true, guess, true * true, guess * guess, true * guess], axis=1)
    return Sums(added_by_unit(parts, unit), _correlation_of_sums)


def _centred(values: Floats) -> Floats:
    """Distances from the median, in units of the largest: squares neither overflow nor vanish."""
    distances = values - np.median(values)
    largest = np.abs(distances).max()
    return distances / largest if largest > 0 else distances


def _correlation_of_sums(sums: Floats) -> Floats:
    rows, true, guess, true_true, guess_guess, true_guess = np.moveaxis(sums, -1, 0)
    covariance = true_guess - true * guess / rows
    variances = [
        np.where(square - value**2 / rows > _ROUNDING * square, square - value**2 / rows, 0.0)
        for value, square in ((true, true_true), (guess, guess_guess))
    ]
    return correlation(covariance, *variances)


def correlation(covariance: Floats, first: Floats, second: Floats) -> Floats:
    """Covariance over the root of two variances, within -1 and 1; 0 where a variance is 0."""
    varied = np.sqrt(first) * np.sqrt(second)
    shares = np.divide(covariance, varied, out=np.zeros_like(covariance), where=varied > 0)
    return np.asarray(np.clip(shares, -1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Spearman:
    """The Spearman correlation: the Pearson correlation of ranks, where equal values share the mean of their ranks.

    A resample has ranks of its own. They need no sorting: the rank of a value is the weight of all smaller ones and
    half of its own, so one cumulative sum over values in their order gives the ranks of every resample. Weights are
    whole numbers, so that all sums are exact, and a constant is known by a variance of exactly 0.

    Attributes:
        truth: True values [rows].
        predicted: Predicted values [rows].
        unit: The unit of each row [rows]; none: every row is one.
    """

    truth: Floats
    predicted: Floats
    unit: Integers | None = None

    def __call__(self, weights: Floats) -> Floats:
        """The correlation [...] under weights [..., units]."""
        order = np.argsort(self.truth, kind="stable")
        rows = order if self.unit is None else self.unit[order]
        weights = np.take(weights, rows, axis=-1)
        true = _ranks(self.truth[order], weights)
        guess = _ranks(self.predicted[order], weights)
        sums = [
            np.einsum("...r,...r,...r->...", weights, a, b) for a, b in ((true, guess), (true, true), (guess, guess))
        ]
        return correlation(*sums)

    def beside(self, other: "Spearman") -> "Spearman":
        """The units of both runs."""
        joined = partial(np.concatenate, axis=0)
        unit = None
        if self.unit is not None and other.unit is not None:
            unit = joined([self.unit, other.unit + int(self.unit.max()) + 1])
        return Spearman(joined([self.truth, other.truth]), joined([self.predicted, other.predicted]), unit)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """The rank of every value [..., rows] under weights [..., rows], less the mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    of_value = np.take(weights, np.argsort(place, kind="stable"), axis=-1)
    if len(counts) < len(values):
        of_value = np.add.reduceat(of_value, np.cumsum(counts) - counts, axis=-1)
    upto = np.cumsum(of_value, axis=-1)
    middle = (upto[..., -1:] + of_value) / -2
    middle += upto
    return np.take(middle, place, axis=-1)
