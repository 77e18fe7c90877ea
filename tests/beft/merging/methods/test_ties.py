"""TIES: its laws, a naive implementation that follows the paper step by step, and PEFT's where both are the same."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from peft.utils.merge_utils import ties as peft_ties
from torch import Tensor

from beft.errors import InputError
from beft.merging.methods.ties import ties

torch.set_num_threads(1)

WIDTHS = {"a": 3, "b": 1, "c": 4}
NUMBER = sum(WIDTHS.values())

numbers = st.floats(-100, 100).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
whole = st.lists(numbers, min_size=NUMBER, max_size=NUMBER)
several = st.lists(st.tuples(whole, st.floats(0.1, 10)), min_size=1, max_size=4)
densities = st.integers(1, NUMBER).map(lambda kept: kept / NUMBER)


def deltas(values: list[float]) -> dict[str, Tensor]:
    """Values in fp64, divided into the sites."""
    return dict(zip(WIDTHS, torch.tensor(values, dtype=torch.float64).split(list(WIDTHS.values())), strict=True))


def joined(changes: dict[str, Tensor]) -> list[float]:
    return torch.cat([changes[name] for name in WIDTHS]).tolist()


def naive(adapters: list[tuple[list[float], float]], kept: int, scale: float) -> list[float]:
    """Algorithm 1 of arXiv 2306.01708, a component at a time; weights as in the module's text."""
    trimmed = []
    for values, _ in adapters:
        largest = sorted(range(NUMBER), key=lambda at: -abs(values[at]))[:kept]
        trimmed.append([values[at] if at in largest else 0.0 for at in range(NUMBER)])
    weights = [weight for _, weight in adapters]
    merged = []
    for at in range(NUMBER):
        mass = math.fsum(weight * values[at] for values, weight in zip(trimmed, weights, strict=True))
        sign = np.sign(mass)
        agreeing = [
            (values[at], weight)
            for values, weight in zip(trimmed, weights, strict=True)
            if sign != 0 and np.sign(values[at]) == sign
        ]
        total = math.fsum(weight for _, weight in agreeing)
        merged.append(scale * math.fsum(value * weight for value, weight in agreeing) / total if agreeing else 0.0)
    return merged


def no_close_calls(adapters: list[tuple[list[float], float]]) -> None:
    """Leave out sums that are zero but for rounding: there the order of the sum decides the sign."""
    for at in range(NUMBER):
        parts = [weight * values[at] for values, weight in adapters]
        assume(not any(parts) or abs(math.fsum(parts)) > 1e-9 or len([part for part in parts if part]) == 1)


@given(several, densities, st.floats(0.1, 2))
def test_it_is_the_papers_algorithm(adapters: list[tuple[list[float], float]], density: float, scale: float) -> None:
    kept = round(density * NUMBER)
    trimmed = [
        (
            [
                v if at in sorted(range(NUMBER), key=lambda i: -abs(values[i]))[:kept] else 0.0
                for at, v in enumerate(values)
            ],
            w,
        )
        for values, w in adapters
    ]
    no_close_calls(trimmed)
    merged = ties([(deltas(values), weight) for values, weight in adapters], density=density, scale=scale)
    np.testing.assert_allclose(joined(merged), naive(adapters, kept, scale), rtol=1e-9, atol=1e-9)


@given(st.lists(whole, min_size=1, max_size=4), st.sampled_from([1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0]))
def test_it_is_pefts_with_equal_weights(adapters: list[list[float]], density: float) -> None:
    """PEFT trims each tensor by itself, so the whole adapter is one; and it elects plus where all cancels."""
    kept = int(density * NUMBER)
    for values in adapters:
        magnitudes = sorted((abs(value) for value in values), reverse=True)
        assume(kept == NUMBER or magnitudes[kept - 1] > magnitudes[kept] or magnitudes[kept] == 0)
    no_close_calls([(values, 1.0) for values in _trimmed(adapters, kept)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peft_ties(
            [torch.tensor(values, dtype=torch.float64) for values in adapters],
            torch.ones(len(adapters), dtype=torch.float64),
            density,
        )
    merged = ties([(deltas(values), 1.0) for values in adapters], density=density)
    np.testing.assert_allclose(joined(merged), expected, rtol=1e-12, atol=1e-12)


def _trimmed(adapters: list[list[float]], kept: int) -> list[list[float]]:
    cuts = [sorted((abs(value) for value in values), reverse=True)[kept - 1] for values in adapters]
    return [
        [value if abs(value) >= cut else 0.0 for value in values] for values, cut in zip(adapters, cuts, strict=True)
    ]


@given(whole, st.floats(0.01, 100))
def test_one_alone_with_density_one_is_itself(values: list[float], weight: float) -> None:
    assert joined(ties([(deltas(values), weight)], density=1.0)) == values


@given(whole, densities, st.integers(1, 4))
def test_copies_change_nothing(values: list[float], density: float, copies: int) -> None:
    alone = joined(ties([(deltas(values), 1.0)], density=density))
    assert joined(ties([(deltas(values), 1.0)] * copies, density=density)) == pytest.approx(alone, rel=1e-15)


@given(several, densities, st.floats(0.1, 2))
def test_opposite_changes_give_the_opposite(
    adapters: list[tuple[list[float], float]], density: float, scale: float
) -> None:
    turned = [(deltas([-value for value in values]), weight) for values, weight in adapters]
    merged = ties([(deltas(values), weight) for values, weight in adapters], density=density, scale=scale)
    opposite = ties(turned, density=density, scale=scale)
    np.testing.assert_allclose(joined(opposite), [-value for value in joined(merged)], rtol=1e-12, atol=1e-12)


def test_the_trim_is_over_all_sites_of_an_adapter_and_not_over_each() -> None:
    changes = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([30.0, 40.0])}
    merged = ties([(changes, 1.0)], density=0.5)
    assert merged["a"].tolist() == [0.0, 0.0] and merged["b"].tolist() == [30.0, 40.0]


def test_mass_elects_and_not_the_majority() -> None:
    adapters = [({"a": torch.tensor([value])}, 1.0) for value in (-1.0, -1.0, 5.0)]
    assert ties(adapters, density=1.0)["a"].tolist() == [5.0]
    assert ties([*adapters[:2], (adapters[2][0], 0.25)], density=1.0)["a"].tolist() == [-1.0], "weights vote as well"


def test_a_site_of_one_adapter_only_is_not_halved() -> None:
    merged = ties([({"a": torch.tensor([2.0])}, 1.0), ({"b": torch.tensor([4.0])}, 1.0)], density=1.0)
    assert merged["a"].item() == 2.0 and merged["b"].item() == 4.0


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_that_is_no_share_is_an_error(density: float) -> None:
    with pytest.raises(InputError, match="density"):
        ties([({"a": torch.ones(2)}, 1.0)], density=density)
