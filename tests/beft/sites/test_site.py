"""One bias site: what it reads of a model, which components are its own, and its form as JSON."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from beft.errors import InputError
from beft.settings import TERMS
from beft.sites.site import BiasSite, find_sites, read_bias
from tests.conftest import FAMILIES
from tests.support.components import components


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_read_bias_is_a_wide_copy(tiny, dtype):
    model = tiny("bert", dtype=dtype)
    site = find_sites(model, ["value"])[0]
    own = model.bert.encoder.layer[0].attention.self.value.bias
    before = own.detach().clone()
    read = read_bias(model, site)
    assert read.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not read.requires_grad
    assert torch.equal(read, before.to(read.dtype))
    read.zero_()
    assert torch.equal(own, before)


def test_a_site_of_another_model_is_an_error(tiny):
    sites = find_sites(tiny("bert"), ["value"])
    with pytest.raises(InputError, match="belongs to another model"):
        read_bias(tiny("gpt2"), sites[0])
    with pytest.raises(InputError, match="belongs to another model"):
        read_bias(tiny("bert", num_hidden_layers=1), sites[1])
    with pytest.raises(InputError, match="has 16 components only"):
        read_bias(tiny("bert", hidden_size=16), sites[0])
    added, own = (find_sites(tiny("llama", attention_bias=own), ["value"], add=True)[0] for own in (False, True))
    with pytest.raises(InputError, match="to be added, but Linear has one"):
        read_bias(tiny("llama", attention_bias=True), added)
    with pytest.raises(InputError, match="has no bias; it can be added"):
        read_bias(tiny("llama"), own)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_unique_and_fit_for_safetensors(tiny, family):
    model = copy.deepcopy(tiny(family))
    sites = find_sites(model, add=True)
    biases = {site.name: read_bias(model, site) for site in sites}
    assert len(biases) == len(sites)
    loaded = load(save(biases))
    assert all(torch.equal(loaded[site.name], read_bias(model, site)) for site in sites)


def site_of(term, layer, module, start, width, added, gaps, stack):
    """A site of whole blocks: ``gaps`` is none, or how many blocks, and how many components between them."""
    if gaps is None:
        return BiasSite(term, layer, module, "bias", start, start + width, added, stack=stack)
    blocks, between = gaps
    stride = width + between
    stop = start + (blocks - 1) * stride + width
    return BiasSite(term, layer, module, "bias", start, stop, added, width, stride, stack)


SITES = st.builds(
    site_of,
    st.sampled_from(TERMS),
    st.integers(0, 200),
    st.text(min_size=1),
    st.integers(0, 10_000),
    st.integers(1, 1_000),
    st.booleans(),
    st.none() | st.tuples(st.integers(2, 9), st.integers(1, 99)),
    st.sampled_from(["", "encoder", "decoder"]),
)


@given(SITES)
def test_a_site_takes_and_puts_its_own_components(site):
    vector = torch.arange(site.stop + 3)
    assert site.take(vector).tolist() == components(site)
    assert site.width == len(components(site))
    site.put(vector, torch.zeros(site.width, dtype=torch.int64))
    kept = set(range(1, site.stop + 3)) - set(components(site))
    assert set(vector.tolist()) - {0} == kept


@given(SITES, SITES)
def test_sites_overlap_where_they_share_a_component(one, other):
    assert one.overlaps(other) == bool(set(components(one)) & set(components(other)))


def test_json_of_plain_sites_is_what_it_was(tiny):
    """Adapters that were saved before some sites had gaps are read, and others of the same bytes are written."""
    site = find_sites(tiny("bert"), ["value"])[0]
    assert site.to_json() == {
        "term": "value",
        "layer": 0,
        "module": "bert.encoder.layer.0.attention.self.value",
        "parameter": "bias",
        "start": 0,
        "stop": 32,
        "added": False,
    }
    assert site.name == "bert.encoder.layer.0.attention.self.value.bias[0:32]"


@given(SITES)
def test_json_round_trip(site):
    assert BiasSite.from_json(site.to_json()) == site


@given(SITES, st.sampled_from(["term", "layer", "module", "parameter", "start", "stop", "added"]))
def test_json_with_a_wrong_field_is_an_error(site, name):
    value = site.to_json()
    for wrong in (None, 1.5, [], -1 if name == "layer" else {}):
        with pytest.raises(InputError):
            BiasSite.from_json({**value, name: wrong})
    del value[name]
    with pytest.raises(InputError, match="needs exactly the fields"):
        BiasSite.from_json(value)


def test_json_of_something_else_is_an_error():
    for value in (None, [], "query", {"term": "query"}):
        with pytest.raises(InputError):
            BiasSite.from_json(value)
    site = BiasSite("query", 0, "m", "bias", 0, 4, False).to_json()
    with pytest.raises(InputError, match="not a bias site"):
        BiasSite.from_json({**site, "start": 4})
    with pytest.raises(InputError, match="unknown bias term"):
        BiasSite.from_json({**site, "term": "qurey"})
    for wrong in ({"block": 1}, {"stride": 2}, {"block": 2, "stride": 2}, {"block": 1, "stride": 2}, {"stack": "both"}):
        with pytest.raises(InputError, match="not a bias site"):
            BiasSite.from_json({**site, **wrong})
