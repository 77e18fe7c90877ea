"""Intervals over rows: resample the rows, compute the metric on each resample, take percentiles.

Rows with the same truth and the same predictions are alike to every metric of labels, so drawing rows with replacement
is the same as drawing how often each GROUP of alike rows occurs: one multinomial draw a resample, whatever the number
of rows. All methods are resampled together, which makes every difference of two of them a paired one.

Percentile, not BCa: the paired differences decide promotions, and there percentile kept its promise better. On
simulated data (two methods, 1,000 data sets a case, 95 %) with 50 and 200 rows and many rows that differ, percentile
covered 93 to 96 % of the differences and BCa 89 to 95 %; with 1,000 rows both covered 95 %. BCa was better for single
metrics of few rows (F1 and Matthews of 50 rows at 90 % accuracy: 93 to 95 % against 90 to 92 %). Neither helps where
almost no row is wrong: 30 rows at 95 % accuracy were covered 79 % of the time by both.

With few rows that differ the interval calls a gain too easily (four differing rows, all one way, lie above zero), so a
gain also asks for an exchange test, which is exact when the two methods are interchangeable.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError
from beft.metrics import MetricKind
from beft.metrics.counts import label_counts

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_NUMBERS_AT_ONCE = 4_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class RowGroups:
    """The distinct kinds of rows of a split.

    Attributes:
        truth: True label index [groups].
        predicted: Predicted label index of every run [runs, groups].
        counts: How many rows are of each group [groups].
        labels: How many labels there are.
    """

    truth: Integers
    predicted: Integers
    counts: Integers
    labels: int

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.counts.sum())


def group_rows(truth: Integers, predicted: Integers, labels: int) -> RowGroups:
    """Group alike rows.

    Args:
        truth: True label index [rows].
        predicted: Predicted label index of every run (a method, or one seed of it) [runs, rows].
        labels: How many labels there are.

    Raises:
        InputError: No rows, different numbers of rows, or a label index outside the labels.
    """
    if predicted.ndim != 2 or predicted.shape[1] != len(truth):
        raise InputError(f"predictions of shape {predicted.shape} for {len(truth)} rows")
    table = np.vstack([truth[None], predicted]).astype(np.int64)
    if table.shape[1] == 0:
        raise InputError("no rows to evaluate")
    if table.min() < 0 or table.max() >= labels:
        raise InputError(f"label indices must lie in 0 to {labels - 1}, got {table.min()} to {table.max()}")
    groups, counts = np.unique(table, axis=1, return_counts=True)
    return RowGroups(groups[0], groups[1:], counts.astype(np.int64), labels)


def metric_values(groups: RowGroups, kind: MetricKind, weights: Floats) -> Floats:
    """The metric of every run under row weights.

    Args:
        weights: How often each group occurs [..., groups].

    Returns:
        [..., runs]
    """
    return np.stack(
        [kind.from_counts(label_counts(groups.truth, run, weights, groups.labels)) for run in groups.predicted], axis=-1
    )


def bootstrap(
    groups: RowGroups, kinds: Sequence[MetricKind], *, resamples: int, generator: np.random.Generator
) -> dict[str, Floats]:
    """Compute metrics on resamples of the rows, the same resamples for every run and metric.

    Args:
        resamples: How often the rows are drawn with replacement.

    Returns:
        The metric's name -> its value for every resample and run [resamples, runs].
    """
    parts: dict[str, list[Floats]] = {kind.name: [] for kind in kinds}
    share = groups.counts / groups.rows
    for count in _portions(resamples, max(len(share), groups.labels)):
        weights = generator.multinomial(groups.rows, share, size=count).astype(np.float64)
        for kind in kinds:
            parts[kind.name].append(metric_values(groups, kind, weights))
    return {name: np.concatenate(values) for name, values in parts.items()}


def percentile_interval(values: Floats, confidence: float) -> tuple[float, float]:
    """The two-sided percentile interval of resampled values [resamples].

    Both ends are values that occurred, taken outwards, so that the interval never is narrower than asked for.
    """
    tail = (1 - confidence) / 2
    low = np.quantile(values, tail, method="lower")
    high = np.quantile(values, 1 - tail, method="higher")
    return float(low), float(high)


def exchange_test(
    groups: RowGroups,
    kind: MetricKind,
    first: Sequence[int],
    second: Sequence[int],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> float:
    """The one-sided p-value of "the first method is better than the second", by exchanging their predictions.

    Were the two methods interchangeable, swapping their predictions on any rows would change nothing but chance. The
    p-value is the share of random swaps whose difference is at least the one seen (itself counted), so it is exact for
    every metric and any number of rows, and never 0. For accuracy it is McNemar's test. Runs are compared in pairs
    (seed by seed); a method with one run stands against every run of the other.

    Args:
        first: Which runs of ``groups`` are the first method's.
        second: Which runs are the second method's.

    Raises:
        InputError: Both have several runs, and not the same number.
    """
    pairs = _paired_runs(first, second)
    truth = np.concatenate([groups.truth, groups.truth])
    one = [np.concatenate([groups.predicted[a], groups.predicted[b]]) for a, b in pairs]
    other = [np.concatenate([groups.predicted[b], groups.predicted[a]]) for a, b in pairs]

    def difference(swapped: Floats) -> Floats:
        weights = np.concatenate([groups.counts - swapped, swapped], axis=-1)
        gains = [
            kind.from_counts(label_counts(truth, a, weights, groups.labels))
            - kind.from_counts(label_counts(truth, b, weights, groups.labels))
            for a, b in zip(one, other, strict=True)
        ]
        return np.asarray(np.mean(gains, axis=0))

    seen = float(difference(np.zeros(len(groups.counts))))
    as_large = 0
    for count in _portions(resamples, max(2 * len(groups.counts), groups.labels)):
        swapped = generator.binomial(groups.counts, 0.5, size=(count, len(groups.counts))).astype(np.float64)
        as_large += int((difference(swapped) >= seen - _ROUNDING).sum())
    return (1 + as_large) / (1 + resamples)


def _paired_runs(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    if len(first) != len(second) and 1 not in (len(first), len(second)):
        raise InputError(f"{len(first)} runs cannot be paired with {len(second)}; give the same seeds, or one run")
    runs = max(len(first), len(second))
    return [(first[i % len(first)], second[i % len(second)]) for i in range(runs)]


def _portions(resamples: int, width: int) -> Iterator[int]:
    """Split ``resamples`` so that each portion holds a bounded number of values; the random stream is the same."""
    at_once = max(1, _NUMBERS_AT_ONCE // width)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)
