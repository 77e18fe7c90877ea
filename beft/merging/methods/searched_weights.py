"""Merging with weights that were searched on dev rows: the sum of the changes, each times the weight that was found.

The search needs no gradient, as that of "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition"
(Huang et al., 2024), arXiv 2307.13269, which also weighs whole adapters; but it is simpler, and its cost is known
before it starts. It has three rounds: equal weights of several sizes and a scrambled Halton sequence over [0, 1] for
each weight; then twice the sequence goes on around the best weights so far, in boxes of half and of a quarter of that
size.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import Weighted, weighted_sum
from beft.merging.registry import merge_method
from beft.metrics.registry import rank_on_dev

Weights = tuple[float, ...]

_DECIMALS = 3


class Score(NamedTuple):
    """How good weights are on dev: the larger metric wins, of equal ones the smaller loss."""

    metric: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return rank_on_dev(self.metric, self.loss)


@merge_method("searched_weights")
def searched_weights(adapters: Sequence[Weighted]) -> dict[str, Tensor]:
    """The weighted sum of changes, for weights that ``search_weights`` found. One alone with weight 1 is itself.

    Args:
        adapters: Changes and weights.

    Raises:
        InputError: As ``beft.merging.deltas.weighted_sum``.
    """
    return weighted_sum(adapters)


def rounds(budget: int) -> tuple[int, int, int]:
    """How many weights each round of the search tries: half of the budget, and a quarter twice."""
    return budget - 2 * (budget // 4), budget // 4, budget // 4


def search_weights(
    measure: Callable[[Sequence[Weights]], Sequence[Score]],
    adapters: int,
    *,
    starts: Sequence[float],
    budget: int,
    seed: int = 0,
) -> list[tuple[Weights, Score]]:
    """Search the weights of adapters; exactly ``budget`` of them are measured.

    Args:
        measure: Scores of weights, each one weight an adapter; called once a round.
        adapters: How many adapters there are.
        starts: Sizes of the equal weights that are tried first.
        budget: How many weights are tried.
        seed: Of the scrambling.

    Returns:
        All weights and their scores, in the order in which they were tried.

    Raises:
        InputError: The budget does not reach for one weight beside the starts.
    """
    from scipy.stats import qmc

    first, *later = rounds(budget)
    known = list(dict.fromkeys((round(float(size), _DECIMALS),) * adapters for size in starts))
    if first <= len(known):
        raise InputError(f"a budget of {budget} is too small: half of it must be more than the {len(known)} starts")
    sequence = qmc.Halton(adapters, rng=seed)
    candidates = [*known, *_as_weights(sequence.random(first - len(known)))]
    tried = list(zip(candidates, measure(candidates), strict=True))
    width = 1.0
    for number in later:
        width /= 2
        centre = np.array(best(tried)[0])
        points = centre + width * (sequence.random(number) - 0.5)
        candidates = _as_weights(points.clip(min=0))
        tried += zip(candidates, measure(candidates), strict=True)
    return tried


def best(tried: Sequence[tuple[Weights, Score]]) -> tuple[Weights, Score]:
    """The weights with the best score; of equally good ones the first."""
    return max(tried, key=lambda one: one[1].rank)


def _as_weights(points: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[Weights]:
    return [tuple(round(float(value), _DECIMALS) for value in point) for point in points]
