"""Magnitude is the mean absolute change: 0 untouched, linear in the change, blind to the angle."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beft.importance.methods.magnitude import magnitude
from beft.importance.registry import score
from beft.sites.site import BiasSite

torch.set_num_threads(1)

VALUE = BiasSite("value", 0, "m.value", "bias", 0, 3, False)
vectors = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3)


@given(vectors, vectors)
def test_equals_the_mean_of_absolute_differences(before: list[float], after: list[float]) -> None:
    first, second = (torch.tensor(values, dtype=torch.float64) for values in (before, after))
    table = magnitude({VALUE: first}, {VALUE: second})
    assert table.scores["value"][0] == pytest.approx(float(np.mean(np.abs(np.array(after) - np.array(before)))))


@given(vectors)
def test_untouched_is_exactly_zero(values: list[float]) -> None:
    vector = torch.tensor(values, dtype=torch.float64)
    assert magnitude({VALUE: vector}, {VALUE: vector.clone()}).scores["value"] == (0.0,)


def test_an_added_bias_has_a_magnitude() -> None:
    table = score("magnitude", before={VALUE: torch.zeros(3)}, after={VALUE: torch.tensor([3.0, -3.0, 0.0])})
    assert table.scores["value"] == (2.0,)


def test_the_width_does_not_matter() -> None:
    wide = BiasSite("intermediate", 0, "m.wide", "bias", 0, 6, False)
    before = {VALUE: torch.zeros(3), wide: torch.zeros(6)}
    after = {VALUE: torch.full((3,), 0.5), wide: torch.full((6,), -0.5)}
    assert magnitude(before, after).mean == {"value": 0.5, "intermediate": 0.5}
