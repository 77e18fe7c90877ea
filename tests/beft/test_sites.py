"""Bias sites against hand counts from the configuration, and every way in which a model can fail to have them."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from beft.errors import InputError
from beft.settings import TERMS
from beft.sites import BiasSite, find_sites, read_bias

FAMILIES = ("bert", "roberta", "mpnet", "distilbert", "opt", "gpt2", "qwen2", "llama", "phi")
LAYERS, HIDDEN, INTERMEDIATE = 2, 32, 48
KEY_VALUE = 16  # 2 of 4 heads of width 8 in the grouped-query families

PROJECTIONS = {
    "query": HIDDEN,
    "key": HIDDEN,
    "value": HIDDEN,
    "attention_output": HIDDEN,
    "intermediate": INTERMEDIATE,
    "output": HIDDEN,
}
GROUPED = {**PROJECTIONS, "key": KEY_VALUE, "value": KEY_VALUE}
NORMS = {"attention_norm": HIDDEN, "output_norm": HIDDEN}
ENCODER = {**PROJECTIONS, **NORMS}

# Existing terms of each layer, and of the model once, with their widths.
EXISTING: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    **{family: (ENCODER, {"embedding_norm": HIDDEN}) for family in ("bert", "roberta", "mpnet", "distilbert")},
    **{family: (ENCODER, {"final_norm": HIDDEN}) for family in ("opt", "gpt2")},
    "qwen2": ({"query": HIDDEN, "key": KEY_VALUE, "value": KEY_VALUE}, {}),
    "phi": ({**PROJECTIONS, "attention_norm": HIDDEN}, {"final_norm": HIDDEN}),
}


def expected(inside: dict[str, int], outside: dict[str, int]) -> list[tuple[str, int, int]]:
    """(term, layer, width) in the order that find_sites promises."""
    return [
        (term, layer, inside.get(term, outside.get(term, 0)))
        for term in TERMS
        for layer in (range(LAYERS) if term in inside else [0] if term in outside else [])
    ]


def described(sites: tuple[BiasSite, ...]) -> list[tuple[str, int, int]]:
    return [(site.term, site.layer, site.width) for site in sites]


@pytest.mark.parametrize("family", EXISTING)
def test_sites_are_those_counted_by_hand(tiny, family):
    sites = find_sites(tiny(family))
    assert described(sites) == expected(*EXISTING[family])
    assert not any(site.added for site in sites)


@pytest.mark.parametrize("family", EXISTING)
def test_sites_cover_every_bias_of_the_layers_once(tiny, family):
    model = tiny(family)
    covered = {name: torch.zeros(p.shape, dtype=torch.int) for name, p in model.named_parameters() if p.dim() == 1}
    for site in find_sites(model):
        covered[f"{site.module}.{site.parameter}"][site.start : site.stop] += 1
    for name, count in covered.items():
        head = name.startswith(("classifier", "pre_classifier", "score")) or ".pooler." in name
        assert (count == (0 if head or not name.endswith(".bias") else 1)).all(), name


def test_all_biases_of_bert_base_are_104450():
    from transformers import BertConfig, BertForSequenceClassification

    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(num_labels=2))
    sites = sum(site.width for site in find_sites(model))
    pooler = model.bert.pooler.dense.bias.numel()
    classifier = sum(parameter.numel() for parameter in model.classifier.parameters())
    assert sites + pooler + classifier == 104_450
    assert sum(site.width for site in find_sites(model, ["value"])) == 9_216


@pytest.mark.parametrize("family", FAMILIES)
def test_a_base_model_has_the_same_sites_without_the_prefix(tiny, bare, family):
    model = tiny(family)
    prefix = f"{model.base_model_prefix}."
    with_head = find_sites(model, add=True)
    without = find_sites(bare(model), add=True)
    assert described(with_head) == described(without)
    assert [site.module.removeprefix(prefix) for site in with_head] == [site.module for site in without]
    assert all(site.module.startswith(prefix) for site in with_head)


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_run_in_the_order_of_their_terms(tiny, tiny_batch, family):
    """A term that points at the wrong module is seen in the order of a forward pass."""
    model = tiny(family)
    sites = find_sites(model, add=True)
    calls: list[str] = []
    for path in dict.fromkeys(site.module for site in sites):
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    model(**tiny_batch())
    assert len(calls) == len(set(calls)) == len({site.module for site in sites})
    at = {(site.term, site.layer): calls.index(site.module) for site in sites}
    for layer in range(LAYERS):
        attention = [at[term, layer] for term in ("query", "key", "value")]
        assert max(attention) < at["attention_output", layer] < at["intermediate", layer] < at["output", layer]
        if ("attention_norm", layer) in at:
            assert at["attention_norm", layer] < at["intermediate", layer]
        if ("output_norm", layer) in at:
            assert max(at["attention_norm", layer], at["attention_output", layer]) < at["output_norm", layer]
    assert at.get(("embedding_norm", 0), 0) == 0
    assert at.get(("final_norm", 0), len(calls) - 1) == len(calls) - 1


def test_gpt2_slices_are_the_parts_that_attention_splits(tiny):
    model = tiny("gpt2")
    fused = model.transformer.h[1].attn.c_attn.bias
    for term, part in zip(("query", "key", "value"), fused.split(HIDDEN), strict=True):
        site = find_sites(model, [term])[1]
        assert site.module == "transformer.h.1.attn.c_attn"
        assert torch.equal(read_bias(model, site), part)


def test_mpnet_relative_attention_bias_is_no_site(tiny):
    sites = find_sites(tiny("mpnet"), add=True)
    assert not [site for site in sites if "relative_attention_bias" in site.module or site.parameter != "bias"]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_added_biases_have_the_width_of_their_projection(tiny, family):
    model = tiny(family)
    sites = find_sites(model, add=True)
    assert described(sites) == expected(GROUPED, {})
    exists = {"query", "key", "value"} if family == "qwen2" else set()
    assert {site.term for site in sites if not site.added} == exists
    for site in sites:
        assert site.width == model.get_submodule(site.module).weight.shape[0]
        bias = read_bias(model, site)
        assert bias.shape == (site.width,)
        assert (not bias.any()) == site.added


def test_llama_with_biases_of_its_own(tiny):
    sites = find_sites(tiny("llama", attention_bias=True))
    four = {term: GROUPED[term] for term in ("query", "key", "value", "attention_output")}
    assert described(sites) == expected(four, {})
    assert not any(site.added for site in sites)


def test_terms_are_filtered_and_ordered(tiny):
    sites = find_sites(tiny("bert"), ["value", "query", "value"])
    assert [(site.term, site.layer) for site in sites] == [("query", 0), ("query", 1), ("value", 0), ("value", 1)]


def test_adding_leaves_existing_biases_as_they_are(tiny):
    model = tiny("bert")
    assert find_sites(model, add=True) == find_sites(model)


def test_a_model_without_biases_says_that_they_can_be_added(tiny):
    with pytest.raises(InputError, match=r"no bias term in any layer.*found: none.*base\.add_biases: true"):
        find_sites(tiny("llama"))
    with pytest.raises(InputError, match=r"no bias at attention_output in any layer.*found: query, key, value.*added"):
        find_sites(tiny("qwen2"), ["query", "attention_output"])


def test_a_norm_without_bias_cannot_get_one(tiny):
    with pytest.raises(InputError, match="no bias at attention_norm") as error:
        find_sites(tiny("llama"), ["attention_norm"], add=True)
    assert "can be added" not in str(error.value)
    with pytest.raises(InputError, match="no bias at embedding_norm"):
        find_sites(tiny("gpt2"), ["embedding_norm"])


def test_unknown_and_missing_terms(tiny):
    with pytest.raises(InputError, match=r"unknown bias term 'vlaue'.*'value'"):
        find_sites(tiny("bert"), ["vlaue"])
    with pytest.raises(InputError, match="no bias term was asked for"):
        find_sites(tiny("bert"), [])


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("terms", [None, ["query"]])
def test_a_term_in_part_of_the_layers_is_an_error(tiny, terms, add):
    model = tiny("bert")
    model.bert.encoder.layer[0].attention.self.query.bias = None
    with pytest.raises(InputError, match=r"only part of the layers .* query .* 1 of 2 layers \(layer 1\)"):
        find_sites(model, terms, add=add)


def test_a_layer_of_another_structure_is_an_error(tiny):
    model = tiny("bert")
    model.bert.encoder.layer[1] = nn.Linear(HIDDEN, HIDDEN)
    with pytest.raises(InputError, match=r"only part of the layers.*bert\.encoder\.layer .* except in layer 1"):
        find_sites(model)


def test_an_unknown_structure_lists_what_was_found():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
    with pytest.raises(InputError, match=r"structure of ModuleDict is unknown.*GPT-2.*blocks \(2 of Linear\)"):
        find_sites(model)


def test_a_projection_that_the_layout_does_not_know_is_no_match(tiny):
    """Cross-attention, or an adapter put into the layers: not a BERT whose every bias is known."""
    with pytest.raises(InputError, match="unknown"):
        find_sites(tiny("bert", is_decoder=True, add_cross_attention=True))


def test_an_encoder_with_a_decoder_is_an_error():
    from transformers import BartConfig, BartForSequenceClassification

    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    config = BartConfig(vocab_size=16, d_model=8, encoder_attention_heads=2, decoder_attention_heads=2, **sizes)
    with pytest.raises(InputError, match="unknown"):
        find_sites(BartForSequenceClassification(config))


def test_two_lists_of_layers_are_an_error(tiny):
    with pytest.raises(InputError, match=r"more than one list of layers \(0\.bert\.encoder\.layer, 1\."):
        find_sites(nn.ModuleList([tiny("bert"), tiny("roberta")]))


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


SITES = st.builds(
    lambda term, layer, module, start, width, added: BiasSite(term, layer, module, "bias", start, start + width, added),
    st.sampled_from(TERMS),
    st.integers(0, 200),
    st.text(min_size=1),
    st.integers(0, 10_000),
    st.integers(1, 10_000),
    st.booleans(),
)


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
