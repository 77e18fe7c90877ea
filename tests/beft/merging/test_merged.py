"""Merging adapters: one base, the union of sites with a warning, the recipe, and never a head."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.merging.adapters import merged_adapters
from beft.merging.deltas import content_hash
from beft.merging.merged import MergeWarning, merge
from beft.merging.registry import known_methods
from beft.settings import Quantization
from beft.sites.site import BiasSite
from tests.support.tiny_bases import load, make_adapter, save_base

torch.set_num_threads(1)


@dataclass(frozen=True)
class Trained:
    """The least that an adapter is to a merge."""

    deltas: dict[BiasSite, Tensor]
    terms: tuple[str, ...] = ("value",)
    base_id: str = "pypi:tiny==1.0"
    base_sha256: str = "a" * 64
    base_contents: str | None = None
    quantization: Quantization | None = "none"


def site(term: str = "value", layer: int = 0) -> BiasSite:
    return BiasSite(term, layer, f"encoder.{layer}.{term}", "bias", 0, 2, False)


def value(*numbers: float) -> Trained:
    """An adapter of the value term, one layer a pair of numbers."""
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return Trained({site(layer=layer): torch.tensor(pair) for layer, pair in enumerate(pairs)})


def test_the_merged_changes_are_keyed_by_site() -> None:
    merged = merge("mean", {"sst2": value(1.0, 2.0, 3.0, 4.0), "rte": value(3.0, 0.0, -3.0, 0.0)})
    assert {key: tensor.tolist() for key, tensor in merged.deltas.items()} == {
        site(layer=0): [2.0, 1.0],
        site(layer=1): [0.0, 2.0],
    }
    assert merged.terms == ("value",)


def test_the_same_sites_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merge("mean", {"a": value(1.0, 2.0), "b": value(0.0, 1.0)}).notes == ()


def test_different_terms_merge_over_the_union_with_a_warning() -> None:
    query = Trained({site("query"): torch.tensor([4.0, 8.0])}, terms=("query",))
    with pytest.warns(MergeWarning, match="a: value; b: query"):
        merged = merge("mean", {"a": value(1.0, 2.0), "b": query})
    assert merged.terms == ("query", "value")
    assert merged.deltas[site("query")].tolist() == [2.0, 4.0]
    assert merged.deltas[site("value")].tolist() == [0.5, 1.0]
    assert len(merged.notes) == 1


def test_an_fp64_and_an_fp32_adapter_of_different_terms_are_merged_and_saved(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")))
    narrow, drawn = make_adapter(classifier, ("value",)), make_adapter(classifier, ("query",))
    wide = replace(drawn, deltas={site: delta.double() / 3 for site, delta in drawn.deltas.items()})
    adapters = {"narrow": narrow, "wide": wide}
    with pytest.warns(MergeWarning, match="narrow: value; wide: query"):
        merged = merge("mean", adapters)
    for name, adapter in merged_adapters(adapters, merged).items():
        adapter.save(tmp_path / name)
        found = Adapter.load(tmp_path / name)
        assert found.deltas.keys() == narrow.deltas.keys() | wide.deltas.keys()
        for site, delta in found.deltas.items():
            change = (narrow if site in narrow.deltas else wide).deltas[site].double()
            assert delta.dtype == torch.float64 and torch.equal(delta, change / 2)


def test_different_bases_are_an_error_that_names_both() -> None:
    other = replace(value(1.0, 2.0), base_id="hub:other@1", base_sha256="b" * 64)
    with pytest.raises(InputError, match=r"sst2 has pypi:tiny==1\.0 .*rte has hub:other@1"):
        merge("mean", {"sst2": value(1.0, 2.0), "rte": other})


def test_sites_of_one_name_must_be_one_site() -> None:
    other = Trained({replace(site(), added=True): torch.ones(2)})
    with pytest.raises(InputError, match="disagree about"):
        merge("mean", {"a": value(1.0, 2.0), "b": other})


def test_weights_go_by_name() -> None:
    adapters = {"a": value(1.0, 0.0), "b": value(0.0, 1.0)}
    merged = merge("mean", adapters, weights={"b": 3.0, "a": 1.0})
    assert merged.deltas[site()].tolist() == [0.25, 0.75]
    with pytest.raises(InputError, match="no weight for b"):
        merge("mean", adapters, weights={"a": 1.0})
    with pytest.raises(InputError, match="unknown adapter among the weights 'c'"):
        merge("mean", adapters, weights={"a": 1.0, "b": 1.0, "c": 1.0})


def test_the_recipe_is_json_and_names_everything() -> None:
    adapters = {"a": value(1.0, 0.0), "b": value(0.0, 1.0)}
    recipe = merge("task_arithmetic", adapters, scale=0.5).recipe()
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["method"] == "task_arithmetic" and recipe["options"] == {"scale": 0.5}
    assert recipe["weights"] == {"a": 1.0, "b": 1.0}
    assert recipe["sources"]["a"] == content_hash({site().name: torch.tensor([1.0, 0.0])})
    assert merge("task_arithmetic", adapters).recipe()["options"] == {"scale": 1.0}, "defaults are named too"


def test_nothing_to_merge_is_an_error() -> None:
    with pytest.raises(InputError, match="no adapter"):
        merge("mean", {})


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5), st.data())
def test_neither_order_nor_names_matter(pairs: list[tuple[float, float]], data: st.DataObject) -> None:
    adapters = {f"n{at}": value(*pair) for at, pair in enumerate(pairs)}
    weights = {name: data.draw(st.floats(0.1, 2)) for name in adapters}
    order = data.draw(st.permutations(list(adapters)))
    for method in known_methods():
        first = merge(method, adapters, weights=weights)
        second = merge(
            method,
            {f"other {name}": adapters[name] for name in order},
            weights={f"other {name}": weights[name] for name in order},
        )
        assert torch.equal(first.deltas[site()], second.deltas[site()])
