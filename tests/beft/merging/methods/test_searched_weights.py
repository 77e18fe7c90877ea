"""The search for weights: its cost is what was said, and it finds what a known function has."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.merging.methods.searched_weights import Score, Weights, best, rounds, search_weights

STARTS = (0.3, 0.5, 1.0)


class Bowl:
    """A dev metric whose best weights are known."""

    def __init__(self, optimum: Sequence[float]) -> None:
        self.optimum = np.array(optimum)
        self.calls: list[int] = []

    def __call__(self, several: Sequence[Weights]) -> list[Score]:
        self.calls.append(len(several))
        return [Score(-float(((np.array(weights) - self.optimum) ** 2).sum()), 0.0) for weights in several]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(8, 60), st.integers(0, 3))
def test_its_cost_is_the_budget_and_it_is_never_worse_than_a_start(
    optimum: list[float], budget: int, seed: int
) -> None:
    measure = Bowl(optimum)
    tried = search_weights(measure, len(optimum), starts=STARTS, budget=budget, seed=seed)
    assert measure.calls == list(rounds(budget)) and sum(measure.calls) == budget == len(tried)
    assert best(tried)[1].metric >= max(score.metric for score in Bowl(optimum)([(s,) * len(optimum) for s in STARTS]))
    assert all(len(weights) == len(optimum) and min(weights) >= 0 for weights, _ in tried)
    assert tried == search_weights(Bowl(optimum), len(optimum), starts=STARTS, budget=budget, seed=seed)


@pytest.mark.parametrize("optimum", [(0.9, 0.1), (0.2, 0.7, 0.45)])
def test_it_comes_close_to_the_best_weights(optimum: tuple[float, ...]) -> None:
    """Closer than the best equal weights by far, and closer than its own first round."""
    tried = search_weights(Bowl(optimum), len(optimum), starts=STARTS, budget=48)
    found = np.array(best(tried)[0])
    equal = min(np.linalg.norm(np.full(len(optimum), size) - optimum) for size in np.linspace(0, 1, 101))
    assert np.linalg.norm(found - optimum) < min(0.15, equal / 2)
    first = best(tried[: rounds(48)[0]])
    assert best(tried)[1].metric > first[1].metric


def test_the_smaller_loss_decides_between_equal_metrics_then_the_first() -> None:
    tried = [((0.1,), Score(0.5, 2.0)), ((0.2,), Score(0.5, 1.0)), ((0.3,), Score(0.5, 1.0)), ((0.4,), Score(0.4, 0.0))]
    assert best(tried)[0] == (0.2,)


def test_a_budget_below_the_starts_is_an_error() -> None:
    with pytest.raises(InputError, match="budget of 6 is too small"):
        search_weights(Bowl((0.5, 0.5)), 2, starts=(0.1, 0.2, 0.3, 0.4), budget=6)
