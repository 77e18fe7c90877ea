"""A metric of one run, ready to be computed under many weightings of its units at once.

A unit is what a resample draws: a row, or all rows of a group. A resample is how often each unit occurs; exchanging the
predictions of two runs is a weighting of the units of both, side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Weighed(Protocol):
    """A metric of one run as a function of how often each unit occurs."""

    def __call__(self, weights: Floats) -> Floats:
        """The metric [...] under weights [..., units]; never NaN."""
        ...

    def paired_with(self, other: Self) -> Self:
        """The units of both runs, these first [2 * units]."""
        ...


@dataclass(frozen=True, eq=False)
class Sums:
    """A metric that needs no more than weighted sums.

    Attributes:
        parts: What each unit adds [units, sums].
        value: The metric [...] from sums [..., sums].
    """

    parts: Floats
    value: Callable[[Floats], Floats]

    def __call__(self, weights: Floats) -> Floats:
        """The metric [...] under weights [..., units]."""
        return self.value(weights @ self.parts)

    def paired_with(self, other: "Sums") -> "Sums":
        """The units of both runs."""
        return Sums(np.concatenate([self.parts, other.parts]), self.value)


def added_by_unit(parts: Floats, unit: Integers | None) -> Floats:
    """What each unit adds [units, sums], from what each row adds [rows, sums] and the unit of each row [rows]."""
    if unit is None:
        return parts
    total = np.zeros((int(unit.max()) + 1, parts.shape[1]))
    np.add.at(total, unit, parts)
    return total


def mean_of(scores: Floats) -> Sums:
    """The mean of one score a unit [units]."""
    return Sums(np.stack([scores, np.ones_like(scores)], axis=1), _ratio)


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])
