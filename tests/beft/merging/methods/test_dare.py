"""DARE: its laws, the mean over many draws, and PEFT's arithmetic under the same masks."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils import merge_utils
from scipy.stats import binomtest
from torch import Tensor

from beft.errors import InputError
from beft.merging.methods.dare import dare
from beft.merging.methods.task_arithmetic import task_arithmetic

torch.set_num_threads(1)

WIDTHS = {"a": 3, "b": 1, "c": 4}
numbers = st.floats(-100, 100).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
whole = st.lists(numbers, min_size=8, max_size=8)
several = st.lists(st.tuples(whole, st.floats(-2, 2)), min_size=1, max_size=4)


def deltas(values: list[float]) -> dict[str, Tensor]:
    """Values in fp64, divided into the sites."""
    return dict(zip(WIDTHS, torch.tensor(values, dtype=torch.float64).split(list(WIDTHS.values())), strict=True))


def joined(changes: dict[str, Tensor]) -> Tensor:
    return torch.cat([changes[name] for name in WIDTHS])


def random_changes(seed: int, width: int = 2000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(width, generator=generator, dtype=torch.float64)}


@given(several, st.floats(-2, 2), st.integers(0, 5))
def test_without_dropping_it_is_task_arithmetic(
    adapters: list[tuple[list[float], float]], scale: float, draw: int
) -> None:
    weighted = [(deltas(values), weight) for values, weight in adapters]
    merged = dare(weighted, drop_rate=0.0, scale=scale, draw=draw)
    assert torch.equal(joined(merged), joined(task_arithmetic(weighted, scale=scale)))


@given(whole, st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_component_is_dropped_or_rescaled(values: list[float], rate: float, draw: int) -> None:
    merged = joined(dare([(deltas(values), 1.0)], drop_rate=rate, draw=draw)).tolist()
    for before, after in zip(values, merged, strict=True):
        assert after == 0.0 or after == pytest.approx(before / (1 - rate), rel=1e-12)


@given(several, st.floats(0.05, 0.95), st.data())
def test_the_mask_of_an_adapter_depends_on_nothing_else(
    adapters: list[tuple[list[float], float]], rate: float, data: st.DataObject
) -> None:
    """So a merge is the sum of what each adapter gives alone, in whatever company and order."""
    weighted = [(deltas(values), weight) for values, weight in adapters]
    alone = sum(joined(dare([each], drop_rate=rate)) for each in weighted)
    merged = joined(dare(data.draw(st.permutations(weighted)), drop_rate=rate))
    np.testing.assert_allclose(merged, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_is_unbiased_over_the_draws(rate: float) -> None:
    """The mean over draws is task arithmetic's; a component's variance is δ² p / (1 - p), so z is standard normal."""
    weighted = [(random_changes(0), 1.0), (random_changes(1), -0.5)]
    draws = 400
    mean = sum(dare(weighted, drop_rate=rate, scale=0.7, draw=draw)["a"] for draw in range(draws)) / draws
    expected = task_arithmetic(weighted, scale=0.7)["a"]
    squares = sum((0.7 * weight * changes["a"]) ** 2 for changes, weight in weighted)
    z = (mean - expected) / (squares * rate / (1 - rate) / draws).sqrt()
    assert abs(float(z.mean())) < 5 / math.sqrt(len(z))
    assert float(z.var()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_is_the_rate(rate: float) -> None:
    for draw in range(3):
        dropped = int((dare([(random_changes(2), 1.0)], drop_rate=rate, draw=draw)["a"] == 0).sum())
        assert binomtest(dropped, 2000, rate).pvalue > 1e-4


def test_masks_differ_between_draws_sites_and_adapters() -> None:
    changes = random_changes(3)["a"]
    ones = {"a": changes, "b": changes}
    kept = {("draw 0", name): dare([(ones, 1.0)])[name] != 0 for name in ones} | {
        ("draw 1", "a"): dare([(ones, 1.0)], draw=1)["a"] != 0,
        ("other", "a"): dare([({"a": 2 * changes}, 1.0)])["a"] != 0,
    }
    masks = list(kept.values())
    for at, one in enumerate(masks):
        for other in masks[:at]:
            assert float((one == other).double().mean()) == pytest.approx(0.5, abs=0.06)


def test_a_mask_follows_from_the_contents_the_site_and_the_draw() -> None:
    """Done again by hand, from the bytes of the adapter to the uniform numbers."""
    values = np.arange(1, 13, dtype=np.float32)
    key = hashlib.sha256(b"a\0torch.float32\0(12,)\0" + values.tobytes()).hexdigest()
    seed = int(hashlib.sha256(f"{key}\0a\0{3}".encode()).hexdigest(), 16)
    kept = np.random.Generator(np.random.PCG64(seed)).random(12) >= 0.5
    merged = dare([({"a": torch.from_numpy(values)}, 1.0)], drop_rate=0.5, draw=3)
    assert merged["a"].tolist() == np.where(kept, 2 * values, 0).tolist()
    assert 0 < kept.sum() < 12


def test_it_is_pefts_under_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    weighted = [(random_changes(seed, 50), weight) for seed, weight in ((0, 1.0), (1, 0.3), (2, -0.7))]
    masks = iter([(dare([(changes, 1.0)], drop_rate=0.4)["a"] != 0).double() for changes, _ in weighted])
    monkeypatch.setattr(merge_utils.torch, "bernoulli", lambda _: next(masks))
    expected = merge_utils.dare_linear(
        [changes["a"] for changes, _ in weighted], torch.tensor([weight for _, weight in weighted]).double(), 0.6
    )
    torch.testing.assert_close(dare(weighted, drop_rate=0.4)["a"], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_an_error(rate: float) -> None:
    with pytest.raises(InputError, match="drop rate"):
        dare([({"a": torch.ones(2)}, 1.0)], drop_rate=rate)
