"""The metrics of a regression: two correlations of predicted with true values, under weights of the rows.

Both are 0 where the truth or the predictions are constant, for a correlation is not defined there and a model that
says the same of every row has found nothing.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from beft.metrics.weighed import Floats, Integers, added_by_unit

_ROUNDING = 1e-12
"""Below this share of the second moment a variance is nothing but rounding."""


@dataclass(frozen=True, eq=False)
class Correlation(ABC):
    """A correlation of one run's predictions with the truth.

    Attributes:
        truth: True values [rows].
        predicted: Predicted values [rows].
        unit: The unit of each row [rows], all from 0 on; None: every row is one.
    """

    truth: Floats
    predicted: Floats
    unit: Integers | None = None

    @abstractmethod
    def __call__(self, weights: Floats) -> Floats:
        """The correlation [...] under weights [..., units]."""

    def paired_with(self, other: Self) -> Self:
        """The units of both runs."""
        unit = None
        if self.unit is not None and other.unit is not None:
            unit = np.concatenate([self.unit, other.unit + self.unit.max() + 1])
        truth = np.concatenate([self.truth, other.truth])
        return type(self)(truth, np.concatenate([self.predicted, other.predicted]), unit)


class Pearson(Correlation):
    """The Pearson correlation, from weighted sums.

    The sums are of distances from the median, which keeps the variance of a resample from being lost in rounding.
    """

    def __call__(self, weights: Floats) -> Floats:
        """The correlation [...] under weights [..., units]."""
        rows, true, guess, true_true, guess_guess, true_guess = np.moveaxis(weights @ self._parts, -1, 0)
        variances = [
            np.where(square - value**2 / rows > _ROUNDING * square, square - value**2 / rows, 0.0)
            for value, square in ((true, true_true), (guess, guess_guess))
        ]
        return _ratio(true_guess - true * guess / rows, *variances)

    @cached_property
    def _parts(self) -> Floats:
        """What each unit adds to the six sums [units, 6]."""
        true, guess = _centred(self.truth), _centred(self.predicted)
        parts = np.stack([np.ones_like(true), true, guess, true * true, guess * guess, true * guess], axis=1)
        return added_by_unit(parts, self.unit)


class Spearman(Correlation):
    """The Spearman correlation: the Pearson correlation of ranks, where equal values share the mean of their ranks.

    A resample has ranks of its own. They need no sorting: the rank of a value is the weight of all smaller ones and
    half of its own, so one cumulative sum over values in their order gives the ranks of every resample. Weights are
    whole numbers, so that all sums are exact, and a constant is known by a variance of exactly 0.
    """

    def __call__(self, weights: Floats) -> Floats:
        """The correlation [...] under weights [..., units]."""
        weights = weights if self.unit is None else np.take(weights, self.unit, axis=-1)
        true, guess = _ranks(self.truth, weights), _ranks(self.predicted, weights)
        covariance, *variances = (
            np.einsum("...r,...r,...r->...", weights, one, other)
            for one, other in ((true, guess), (true, true), (guess, guess))
        )
        return _ratio(covariance, *variances)


def _centred(values: Floats) -> Floats:
    """Distances from the median, in units of the largest: squares neither overflow nor vanish."""
    distances = values - np.median(values)
    largest = np.abs(distances).max()
    return distances / largest if largest > 0 else distances


def _ratio(covariance: Floats, first: Floats, second: Floats) -> Floats:
    """Covariance over the root of two variances, within -1 and 1; 0 where a variance is 0."""
    varied = np.sqrt(first) * np.sqrt(second)
    shares = np.divide(covariance, varied, out=np.zeros_like(covariance), where=varied > 0)
    return np.asarray(np.clip(shares, -1.0, 1.0))


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
