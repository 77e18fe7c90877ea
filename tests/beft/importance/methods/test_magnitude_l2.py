"""Magnitude in the Euclidean norm is the root mean square change, which is at least the mean absolute one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beft.importance.methods.magnitude import magnitude
from beft.importance.methods.magnitude_l2 import magnitude_l2
from beft.importance.registry import score
from beft.sites.site import BiasSite

torch.set_num_threads(1)

VALUE = BiasSite("value", 0, "m.value", "bias", 0, 3, False)
components = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-100)  # squares that are not lost
vectors = st.lists(components, min_size=3, max_size=3)


@given(vectors, vectors)
def test_equals_the_euclidean_distance_over_the_root_of_the_width(before: list[float], after: list[float]) -> None:
    first, second = (torch.tensor(values, dtype=torch.float64) for values in (before, after))
    (found,) = magnitude_l2({VALUE: first}, {VALUE: second}).scores["value"]
    (absolute,) = magnitude({VALUE: first}, {VALUE: second}).scores["value"]
    assert found == pytest.approx(float(np.linalg.norm(np.array(after) - np.array(before))) / math.sqrt(3))
    assert found is not None and absolute is not None
    assert absolute * (1 - 1e-12) <= found and found <= math.sqrt(3) * absolute * (1 + 1e-12)


@given(vectors)
def test_untouched_is_exactly_zero(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    assert magnitude_l2({VALUE: vector}, {VALUE: vector.clone()}).scores["value"] == (0.0,)


def test_one_large_change_weighs_more_than_many_small_ones_of_the_same_sum() -> None:
    before = {VALUE: torch.zeros(3)}
    one = score("magnitude_l2", before=before, after={VALUE: torch.tensor([3.0, 0.0, 0.0])})
    many = score("magnitude_l2", before=before, after={VALUE: torch.tensor([1.0, -1.0, 1.0])})
    assert one.scores["value"] == (pytest.approx(math.sqrt(3)),) and many.scores["value"] == (1.0,)


def test_the_width_does_not_matter() -> None:
    wide = BiasSite("intermediate", 0, "m.wide", "bias", 0, 6, False)
    before = {VALUE: torch.zeros(3), wide: torch.zeros(6)}
    after = {VALUE: torch.full((3,), 0.5), wide: torch.full((6,), -0.5)}
    assert magnitude_l2(before, after).mean == {"value": 0.5, "intermediate": 0.5}
