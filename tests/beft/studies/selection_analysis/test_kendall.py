"""Kendall's tau is scipy's, defined where everything is tied, and blind to names and monotone changes."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from beft.errors import InputError
from beft.studies.selection_analysis.kendall import kendall_tau

scores = st.integers(2, 7).flatmap(
    lambda terms: st.tuples(*[st.lists(st.integers(0, 4), min_size=terms, max_size=terms)] * 2)
)


@given(scores)
def test_equals_scipy_where_scipy_has_a_number(pair: tuple[list[int], list[int]]) -> None:
    first, second = (np.array(numbers, dtype=float) for numbers in pair)
    expected = kendalltau(first, second).statistic
    found = float(kendall_tau(first, second))
    if math.isnan(expected):
        assert found == (1.0 if len(set(pair[0])) == len(set(pair[1])) == 1 else 0.0)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


@given(scores, st.randoms())
def test_neither_names_nor_monotone_changes_matter(pair: tuple[list[int], list[int]], random: Random) -> None:
    first, second = (np.array(numbers, dtype=float) for numbers in pair)
    found = kendall_tau(first, second)
    order = list(range(len(first)))
    random.shuffle(order)
    assert kendall_tau(first[order], second[order]) == pytest.approx(found)
    assert kendall_tau(np.exp(first), second**3 - 7) == pytest.approx(found)
    assert kendall_tau(second, first) == pytest.approx(found)
    if len(set(pair[0])) > 1:
        assert kendall_tau(-first, second) == pytest.approx(-found)


def test_leading_axes_are_broadcast() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(3, 1, 5)), generator.normal(size=(1, 4, 5))
    found = kendall_tau(first, second)
    assert found.shape == (3, 4)
    for at in range(3):
        for other in range(4):
            assert found[at, other] == pytest.approx(kendalltau(first[at, 0], second[0, other]).statistic)


def test_one_term_cannot_be_ranked() -> None:
    with pytest.raises(InputError, match="two terms or more"):
        kendall_tau(np.ones(1), np.ones(1))
    with pytest.raises(InputError, match="not 2 and 3"):
        kendall_tau(np.ones(2), np.ones(3))
