"""Law 5: untouched is 0, scaled and turned have closed forms, over 90° is over 1, and nothing is ever NaN."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from beft.errors import BeftError, InputError
from beft.importance.methods.projection_ratio import projection_ratio, projection_ratio_of
from beft.importance.registry import score
from beft.sites.site import BiasSite

torch.set_num_threads(1)

numbers = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
anything = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def pairs(draw: st.DrawFn, elements: st.SearchStrategy[float] = numbers) -> tuple[Tensor, Tensor]:
    """Two vectors of one length."""
    width = draw(st.integers(1, 12))
    first, second = (draw(st.lists(elements, min_size=width, max_size=width)) for _ in range(2))
    return torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)


def site(term: str = "value", layer: int = 0, width: int = 2, module: str = "m", added: bool = False) -> BiasSite:
    return BiasSite(term, layer, f"{module}{layer}.{term}", "bias", 0, width, added)


@given(pairs())
def test_equals_the_formula_of_the_paper(vectors: tuple[Tensor, Tensor]) -> None:
    before, after = (vector.numpy() for vector in vectors)
    longer = max(np.linalg.norm(before), np.linalg.norm(after))
    assume(longer > 0)
    expected = 1 - before @ after / longer**2
    assert projection_ratio_of(*vectors) == pytest.approx(expected, abs=1e-12)


@given(pairs())
def test_equals_lengths_and_angle(vectors: tuple[Tensor, Tensor]) -> None:
    """1 - (shorter / longer) cos(angle), the angle from arctangent rather than from a dot product's quotient."""
    before, after = (vector.numpy() for vector in vectors)
    lengths = sorted((float(np.linalg.norm(before)), float(np.linalg.norm(after))))
    assume(lengths[0] > 0)
    unit, other = before / np.linalg.norm(before), after / np.linalg.norm(after)
    angle = 2 * math.atan2(np.linalg.norm(unit - other), np.linalg.norm(unit + other))
    assert projection_ratio_of(*vectors) == pytest.approx(1 - lengths[0] / lengths[1] * math.cos(angle), abs=1e-12)


@given(st.lists(anything, min_size=1, max_size=12))
def test_untouched_is_exactly_zero(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    assert projection_ratio_of(vector, vector.clone()) == 0.0


@given(pairs(), st.floats(-8, 8))
def test_scaled(vectors: tuple[Tensor, Tensor], factor: float) -> None:
    vector = vectors[0]
    assume(vector.any() and abs(factor) > 1e-6)
    shorter = math.copysign(min(abs(factor), 1 / abs(factor)), factor)
    assert projection_ratio_of(vector, factor * vector) == pytest.approx(1 - shorter, abs=1e-12)


@given(pairs(), st.floats(0, math.pi))
def test_turned(vectors: tuple[Tensor, Tensor], angle: float) -> None:
    """A turn by an angle, in any plane that holds the vector, gives 1 - cos(angle): over 1 beyond 90°."""
    vector, other = vectors
    assume(vector.any())
    unit = vector / vector.norm()
    across = other - other.dot(unit) * unit
    assume(float(across.norm()) > 1e-2)
    across = across / across.norm()
    across = across - across.dot(unit) * unit
    across = across / across.norm()
    turned = float(vector.norm()) * (math.cos(angle) * unit + math.sin(angle) * across)
    measured = projection_ratio_of(vector, turned)
    assert measured == pytest.approx(1 - math.cos(angle), abs=1e-9)
    if angle > math.pi / 2 + 1e-6:
        assert measured > 1


@given(pairs(anything))
def test_never_nan_and_between_0_and_2(vectors: tuple[Tensor, Tensor]) -> None:
    """Numbers whose squares overflow or vanish are no exception."""
    before, after = vectors
    forwards, backwards = projection_ratio_of(before, after), projection_ratio_of(after, before)
    assert 0.0 <= forwards <= 2.0
    assert forwards == pytest.approx(backwards, abs=1e-9), "which state came first does not matter"


@given(pairs(), st.integers(-200, 200))
def test_the_unit_does_not_matter(vectors: tuple[Tensor, Tensor], exponent: int) -> None:
    unit = 2.0**exponent
    assert projection_ratio_of(*vectors) == projection_ratio_of(*(unit * vector for vector in vectors))


def test_zero_after_is_one_and_zero_before_has_no_direction() -> None:
    zero, other = torch.zeros(2), torch.tensor([3.0, -4.0])
    before = {site(layer=0): other, site(layer=1): zero, site(layer=2): zero, site(layer=3): other}
    after = {site(layer=0): zero, site(layer=1): other, site(layer=2): zero, site(layer=3): -other}
    table = projection_ratio(before, after)
    assert table.scores["value"] == (1.0, None, 0.0, 2.0)
    assert table.mean["value"] == pytest.approx(1.0)


def test_sites_of_one_layer_are_one_vector() -> None:
    """Two modules of one term in one layer: as if their biases stood in one vector."""
    first, second = site(module="a"), site(module="b", width=3)
    before = {second: torch.tensor([1.0, 2.0, 0.0]), first: torch.tensor([2.0, 0.0])}
    after = {first: torch.tensor([0.0, 1.0]), second: torch.tensor([1.0, 1.0, 5.0])}
    joined = projection_ratio_of(torch.tensor([2.0, 0, 1, 2, 0]), torch.tensor([0.0, 1, 1, 1, 5]))
    assert projection_ratio(before, after).scores == {"value": (joined,)}
    assert joined == pytest.approx(1 - 3 / 28)


def test_layers_are_in_order_and_averaged() -> None:
    before = {site(layer=layer): torch.tensor([1.0, 0.0]) for layer in (10, 2, 0)}
    after = {
        site(layer=0): torch.tensor([1.0, 0.0]),
        site(layer=2): torch.tensor([0.5, 0.0]),
        site(layer=10): torch.tensor([0.0, 1.0]),
    }
    table = score("projection_ratio", before=before, after=after)
    assert table.scores["value"] == pytest.approx((0.0, 0.5, 1.0))
    assert table.mean["value"] == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_biases_are_widened_first(dtype: torch.dtype) -> None:
    """600² is beyond fp16, and bf16 has three digits."""
    before, after = torch.tensor([600.0, 1.0], dtype=dtype), torch.tensor([600.0, 2.0], dtype=dtype)
    expected = 1 - (600.0**2 + 2) / (600.0**2 + 4)
    assert projection_ratio({site(): before}, {site(): after}).scores["value"][0] == pytest.approx(expected, rel=1e-9)


def test_different_sites_are_an_error() -> None:
    with pytest.raises(InputError, match="in one mapping only"):
        projection_ratio({site(): torch.ones(2)}, {site(layer=1): torch.ones(2)})


def test_different_shapes_are_an_error() -> None:
    with pytest.raises(InputError, match=r"m0\.value\.bias"):
        projection_ratio({site(): torch.ones(2)}, {site(): torch.ones(3)})


def test_a_diverged_probe_is_named() -> None:
    with pytest.raises(BeftError, match="diverged"):
        projection_ratio({site(): torch.ones(2)}, {site(): torch.tensor([1.0, math.nan])})


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(InputError, match="no bias sites"):
        projection_ratio({}, {})
