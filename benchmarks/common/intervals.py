"""The interval of a mean over seeds or draws."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its t interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The interval of two values or more."""
        mean, spread = statistics.mean(values), statistics.stdev(values)
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / len(values) ** 0.5
        return cls(mean, mean - half, mean + half)

    @property
    def contains_zero(self) -> bool:
        """Whether no difference is among the values that the interval allows."""
        return self.low <= 0 <= self.high

    def percent(self, sign: str = "") -> str:
        """In percent, for a table."""
        return f"{100 * self.mean:{sign}.1f} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"
