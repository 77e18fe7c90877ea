"""Cosine and sign conflict against scikit-learn, plain counting, and the cases that have no direction."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from beft.errors import InputError
from beft.merging.comparison import compare, compare_all
from beft.settings import Quantization
from beft.sites.site import BiasSite

torch.set_num_threads(1)

numbers = st.floats(-100, 100).map(lambda value: 0.0 if abs(value) < 1e-3 else value)
sixes = st.lists(numbers, min_size=6, max_size=6)


def site(term: str = "value", layer: int = 0, width: int = 2) -> BiasSite:
    return BiasSite(term, layer, f"encoder.{layer}.{term}", "bias", 0, width, False)


def changes(values: list[float], term: str = "value") -> dict[BiasSite, Tensor]:
    """Changes of one term, two components a layer."""
    pairs = torch.tensor(values, dtype=torch.float64).view(-1, 2)
    return {site(term, layer): pair for layer, pair in enumerate(pairs)}


@given(sixes, sixes)
def test_cosine_and_conflict(first: list[float], second: list[float]) -> None:
    compared = compare(changes(first), changes(second))
    if any(first) and any(second):
        assert compared.cosine == pytest.approx(cosine_similarity([first], [second])[0, 0], abs=1e-9)
    else:
        assert compared.cosine is None
    products = [a * b for a, b in zip(first, second, strict=True) if a and b]
    assert compared.both_change == len(products)
    expected = sum(product < 0 for product in products) / len(products) if products else None
    assert compared.sign_conflict == expected
    assert compared.norms == pytest.approx((np.linalg.norm(first), np.linalg.norm(second)))
    assert all(
        (cosine is None) == (not any(first[2 * at : 2 * at + 2]) or not any(second[2 * at : 2 * at + 2]))
        for at, cosine in enumerate(compared.by_layer["value"])
    )


@given(sixes, sixes)
def test_which_is_first_does_not_matter(first: list[float], second: list[float]) -> None:
    one, other = compare(changes(first), changes(second)), compare(changes(second), changes(first))
    assert (one.cosine, one.sign_conflict, one.by_layer) == (other.cosine, other.sign_conflict, other.by_layer)


@given(sixes.filter(any), st.floats(0.01, 100))
def test_the_same_direction_and_the_opposite(values: list[float], factor: float) -> None:
    scaled = [factor * value for value in values]
    same = compare(changes(values), changes(scaled))
    opposite = compare(changes(values), changes([-value for value in scaled]))
    assert (same.cosine, same.sign_conflict) == (pytest.approx(1.0), 0.0)
    assert (opposite.cosine, opposite.sign_conflict) == (pytest.approx(-1.0), 1.0)


@given(sixes, sixes, sixes)
def test_the_cosine_of_the_biases_themselves(first: list[float], second: list[float], before: list[float]) -> None:
    compared = compare(changes(first), changes(second), before=changes(before))
    biases = [np.add(before, first), np.add(before, second)]
    if all(np.linalg.norm(bias) > 1e-6 for bias in biases):
        expected = cosine_similarity([biases[0]], [biases[1]])[0, 0]
        assert compared.cosine_of_biases == pytest.approx(expected, abs=1e-6)


def test_a_site_of_one_adapter_only_is_zero_in_the_other() -> None:
    first = {site("value"): torch.tensor([3.0, 0.0]), site("query"): torch.tensor([0.0, 4.0])}
    second = {site("value"): torch.tensor([1.0, 0.0])}
    compared = compare(first, second)
    assert compared.cosine == pytest.approx(3 / 5)
    assert compared.both_change == 1 and list(compared.by_layer) == ["value"]


def test_adapters_of_different_terms_have_nothing_in_common() -> None:
    compared = compare(changes([1.0, 2.0]), changes([1.0, 2.0], "query"))
    assert compared.cosine == 0.0
    assert compared.sign_conflict is None and compared.by_layer == {}


def test_huge_and_tiny_changes_have_a_cosine() -> None:
    first, second = changes([1e200, 1e200]), changes([1e-200, 0.0])
    assert compare(first, second).cosine == pytest.approx(math.sqrt(0.5))


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="different shapes"):
        compare(changes([1.0, 2.0]), {site(): torch.ones(3)})
    with pytest.raises(InputError, match=r"lack encoder\.0\.value"):
        compare(changes([1.0, 2.0]), changes([1.0, 2.0]), before={})


@dataclass(frozen=True)
class Trained:
    deltas: dict[BiasSite, Tensor]
    base_sha256: str = "a" * 64
    base_contents: str | None = None
    quantization: Quantization | None = "none"
    terms: tuple[str, ...] = ("value",)
    base_id: str = "pypi:tiny==1.0"


def test_every_two_are_compared_in_the_order_of_their_names() -> None:
    adapters = {name: Trained(changes([1.0, at])) for at, name in enumerate("cab")}
    compared = compare_all(adapters)
    assert [(pair.first, pair.second) for pair in compared] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert json.loads(json.dumps([pair.to_json() for pair in compared]))[0]["by_layer"]["value"] == [
        pytest.approx(3 / math.sqrt(10))
    ]
    with pytest.raises(InputError, match="different bases"):
        compare_all({**adapters, "d": Trained(changes([1.0, 1.0]), "b" * 64)})
