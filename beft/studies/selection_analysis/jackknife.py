"""Intervals by the jackknife: compute again without each seed in turn, and see how much it matters.

A figure of one cell is computed without each seed in turn; terms and methods of one seed stay together, so that every
difference is a paired one. The interval is Student's t with the jackknife's variance; of a plain mean that is the
t-interval. An average over cells of three datasets or more is computed without each DATASET in turn (with all of its
cells), so that its interval speaks for other datasets; over fewer datasets it speaks for other seeds on these.

Not the bootstrap: a seed drawn twice agrees with itself, and few seeds are too few to draw from. On simulated
rankings of 8 terms in 5 seeds (400 experiments a case, true mean tau 0.23 and 0.62) the jackknife covered the true tau
in 97 to 98 %, percentiles of the bootstrap in 91 to 92 % (3 seeds: 96 to 97 % against 58 to 69 %). Neither helps where
nearly every seed agrees (true tau 0.98, 5 seeds: 56 and 53 %): an interval of no width says that these seeds differ in
nothing, not that no seed would.

Sources: B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982; for averages over pairs of seeds,
J. N. Arvesen, "Jackknifing U-statistics", Annals of Mathematical Statistics 40 (1969).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beft.evaluation.t_interval import t_interval
from beft.studies.selection_analysis.cells import Cell, Floats
from beft.tables import ScoreInterval

Kept = NDArray[np.int64]

_DATASETS = 3
"""From so many datasets on, an average over cells is computed without each of them in turn."""


@dataclass(frozen=True)
class Jackknifed:
    """A figure, and what it is without each unit in turn.

    Attributes:
        value: The figure of all units.
        without: For each group of units (the seeds of a cell) the figure without each one; empty where it is not
            defined without one.
    """

    value: float
    without: tuple[Floats, ...] = ()

    def __sub__(self, other: "Jackknifed") -> "Jackknifed":
        """The difference of two figures of the same units, which are left out of both at once."""
        pairs = zip(self.without, other.without, strict=True) if self.without and other.without else ()
        return Jackknifed(self.value - other.value, tuple(one - two for one, two in pairs))

    def estimate(self, confidence: float = 0.95, bounds: tuple[float, float] = (-math.inf, math.inf)) -> ScoreInterval:
        """The figure with its interval, cut to ``bounds``; without an interval where leaving out is not defined."""
        variances = [_variance(without) for without in self.without]
        if not variances:
            return ScoreInterval(self.value)
        return _interval(self.value, variances, [len(without) - 1 for without in self.without], confidence, bounds)


def jackknife(figure: Callable[..., float], *units: int, min_units: int = 1) -> Jackknifed:
    """Compute a figure of all units, and without each in turn.

    Args:
        figure: Gets the kept units of each group, as indices.
        units: How many units each group has.
        min_units: How many units the figure needs in each group.
    """
    every = [np.arange(count) for count in units]
    value = figure(*every)
    if any(count - 1 < min_units for count in units):
        return Jackknifed(value)
    without = []
    for group, kept in enumerate(every):
        figures = []
        for unit in kept:
            fewer = [np.delete(one, unit) if at == group else one for at, one in enumerate(every)]
            figures.append(figure(*fewer))
        without.append(np.array(figures))
    return Jackknifed(value, tuple(without))


def mean_estimate(values: Floats, confidence: float = 0.95) -> ScoreInterval:
    """The mean of one number a seed [seeds], with its t-interval."""
    return jackknife(lambda kept: float(values[kept].mean()), len(values)).estimate(confidence)


def mean_over_cells(
    cells: Sequence[Cell],
    found: Sequence[Jackknifed],
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> ScoreInterval:
    """The average of a figure over cells with its interval: over datasets from three on, else over the seeds.

    Args:
        cells: One or more cells.
        found: The figure of each cell.
    """
    values = np.array([figure.value for figure in found])
    mean = float(values.mean())
    datasets = sorted({cell.dataset for cell in cells})
    if len(datasets) >= _DATASETS:
        of = np.array([datasets.index(cell.dataset) for cell in cells])
        without = np.array([values[of != dataset].mean() for dataset in range(len(datasets))])
        return Jackknifed(mean, (without,)).estimate(confidence, bounds)
    if not all(figure.without for figure in found):
        return ScoreInterval(mean)
    variances = [_variance(without) / len(found) ** 2 for figure in found for without in figure.without]
    degrees = [len(without) - 1 for figure in found for without in figure.without]
    return _interval(mean, variances, degrees, confidence, bounds)


def _variance(without: Floats) -> float:
    count = len(without)
    return float((count - 1) / count * np.square(without - without.mean()).sum())


def _interval(
    value: float,
    variances: Sequence[float],
    degrees: Sequence[int],
    confidence: float,
    bounds: tuple[float, float],
) -> ScoreInterval:
    """Student's t-interval of a sum of independent parts, its degrees of freedom by Welch and Satterthwaite."""
    variance = math.fsum(variances)
    if variance == 0:
        return ScoreInterval(value, value, value)
    freedom = 1 / math.fsum((part / variance) ** 2 / degree for part, degree in zip(variances, degrees, strict=True))
    low, high = t_interval(value, math.sqrt(variance), freedom, confidence)
    return ScoreInterval(value, max(low, bounds[0]), min(high, bounds[1]))
