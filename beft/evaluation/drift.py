"""Whether what comes in today is still what a model was made for: two-sample tests with permutation p-values.

Labels are compared by total variation, numbers by the Kolmogorov-Smirnov distance, features by the maximum mean
discrepancy (Gretton et al., 2012, equation 3: the unbiased estimate, with a Gaussian kernel whose width is the median
distance). Under a permutation of the rows the counts of each value are hypergeometric, so that the first two draw
counts, not rows.

Permutations are drawn until the real distance was reached twenty times, or to their number: where nothing changed, some
hundred are enough (Besag and Clifford, 1991, sequential Monte Carlo p-values; they are valid).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform

_BINS = 256
"""Numbers of more values than this are compared by as many quantiles of all."""
_AT_ONCE = 4_000_000
"""Numbers that permutations hold at once."""
_FIRST = 256
"""Permutations that are drawn first; then twice as many each time."""
_ENOUGH = 20
"""A distance that was reached so often by chance needs no further permutation."""


@dataclass(frozen=True)
class DriftTest:
    """One comparison of the reference with what came in.

    Attributes:
        name: What is compared.
        statistic: How far they are apart.
        p_value: The share of permutations that are as far apart or farther, the real one counted among them.
        rows: How many rows each side has: reference, current.
        reference: What a reader compares: the mean of numbers, the share of the label that changed most.
        current: The same of what came in.
    """

    name: str
    statistic: float
    p_value: float
    rows: tuple[int, int]
    reference: float
    current: float


def compare_labels(
    name: str, reference: ArrayLike, current: ArrayLike, *, permutations: int, generator: np.random.Generator
) -> DriftTest:
    """Compare the shares of labels by total variation: half of the sum of their absolute differences."""
    first, second = np.asarray(reference), np.asarray(current)
    counts, of_current = _counts(first, second)
    shares = _differences(counts, of_current[None], len(second))[0]
    statistic = float(np.abs(shares).sum() / 2)

    def draw(some: int) -> NDArray[np.float64]:
        drawn = generator.multivariate_hypergeometric(counts, len(second), size=some, method="marginals")
        found: NDArray[np.float64] = np.abs(_differences(counts, drawn, len(second))).sum(1) / 2
        return found

    p_value = _p_value(statistic, draw, permutations, _AT_ONCE // len(counts))
    most = int(np.abs(shares).argmax())
    of_second = of_current[most] / len(second)
    return DriftTest(name, statistic, p_value, (len(first), len(second)), of_second - shares[most], of_second)


def compare_numbers(
    name: str, reference: ArrayLike, current: ArrayLike, *, permutations: int, generator: np.random.Generator
) -> DriftTest:
    """Compare numbers by the Kolmogorov-Smirnov distance: the largest difference of their distributions."""
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    pooled = np.concatenate([first, second])
    borders = np.unique(pooled)
    if len(borders) > _BINS:
        borders = np.unique(np.quantile(pooled, np.linspace(0, 1, _BINS + 1)[1:]))
    places = [np.searchsorted(borders, side) for side in (first, second)]
    counts, of_current = _counts(*places)
    statistic = float(_distances(counts, of_current[None], len(second))[0])

    def draw(some: int) -> NDArray[np.float64]:
        drawn = generator.multivariate_hypergeometric(counts, len(second), size=some, method="marginals")
        return _distances(counts, drawn, len(second))

    p_value = _p_value(statistic, draw, permutations, _AT_ONCE // len(counts))
    rows = (len(first), len(second))
    return DriftTest(name, statistic, p_value, rows, float(first.mean()), float(second.mean()))


def compare_features(
    name: str, reference: ArrayLike, current: ArrayLike, *, permutations: int, generator: np.random.Generator
) -> DriftTest:
    """Compare features, [rows, width] a side, by the squared maximum mean discrepancy."""
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    pooled = np.concatenate([first, second])
    squared = pdist(pooled, "sqeuclidean")
    width = float(np.median(squared)) or 1.0
    kernel = squareform(np.exp(-squared / width))  # zeros on the diagonal: the estimate leaves it out
    sides = np.zeros(len(pooled))
    sides[len(first) :] = 1
    statistic = float(_discrepancies(kernel, sides[None])[0])

    def draw(some: int) -> NDArray[np.float64]:
        return _discrepancies(kernel, generator.permuted(np.broadcast_to(sides, (some, len(pooled))), axis=1))

    return DriftTest(
        name,
        statistic,
        _p_value(statistic, draw, permutations, _AT_ONCE // len(pooled)),
        (len(first), len(second)),
        float(np.linalg.norm(first.mean(0))),
        float(np.linalg.norm(second.mean(0))),
    )


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected, so that none of the true ones is with probability 1 - alpha.

    Source: Holm (1979): the smallest p-value against alpha / n, the next against alpha / (n - 1), until one fails.
    """
    order = np.argsort(p_values, kind="stable")
    rejected = [False] * len(p_values)
    for rank, at in enumerate(order):
        if p_values[at] > alpha / (len(p_values) - rank):
            break
        rejected[at] = True
    return rejected


def _counts(first: NDArray[np.generic], second: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each value occurs in both sides together, and in the second."""
    values, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    return np.bincount(codes, minlength=len(values)), np.bincount(codes[len(first) :], minlength=len(values))


def _differences(counts: NDArray[np.int64], of_current: NDArray[np.int64], rows: int) -> NDArray[np.float64]:
    """The share of each value in the current rows minus that in the others, [permutations, values]."""
    found: NDArray[np.float64] = of_current / rows - (counts - of_current) / (counts.sum() - rows)
    return found


def _distances(counts: NDArray[np.int64], of_current: NDArray[np.int64], rows: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.abs(np.cumsum(_differences(counts, of_current, rows), axis=1)).max(1)
    return found


def _discrepancies(kernel: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """The squared discrepancy of each division of the rows, [divisions]; ``sides`` is 1 for the current rows."""
    second = sides.sum(1)
    first = kernel.shape[0] - second
    reached = sides @ kernel
    within_second = (reached * sides).sum(1)
    between = reached.sum(1) - within_second
    within_first = kernel.sum() - within_second - 2 * between
    found: NDArray[np.float64] = (
        within_first / (first * (first - 1)) + within_second / (second * (second - 1)) - 2 * between / (first * second)
    )
    return found


def _p_value(statistic: float, draw: Callable[[int], NDArray[np.float64]], permutations: int, at_once: int) -> float:
    """The p-value of a distance: the share of permutations that reach it, drawn until that is plain."""
    reached = done = 0
    chunk = _FIRST
    while done < permutations:
        some = min(chunk, permutations - done, max(1, at_once))
        hits = np.flatnonzero(draw(some) >= statistic - 1e-12)
        if reached + len(hits) >= _ENOUGH:
            return _ENOUGH / float(done + hits[_ENOUGH - reached - 1] + 1)
        reached, done, chunk = reached + len(hits), done + some, 2 * chunk
    return (1 + reached) / (1 + permutations)
