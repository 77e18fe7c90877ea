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
from beft.sites.site import BiasSite, find_sites, read_bias
from tests.conftest import ENCODER_DECODER, FAMILIES
from tests.support.components import components

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

# Encoders of which transformers makes no causal language model.
ENCODERS_ALONE = ("mpnet", "distilbert", "deberta-v2", "albert")

# Existing terms of each layer, and of the model once, with their widths.
EXISTING: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    **{
        family: (ENCODER, {"embedding_norm": HIDDEN})
        for family in ("bert", "roberta", "mpnet", "distilbert", "deberta-v2")
    },
    **{family: (ENCODER, {"embedding_norm": 16}) for family in ("electra", "albert")},  # narrower embeddings
    **{family: (ENCODER, {"final_norm": HIDDEN}) for family in ("opt", "gpt2", "gpt_neox")},
    "bloom": ({**ENCODER, "intermediate": 4 * HIDDEN}, {"embedding_norm": HIDDEN, "final_norm": HIDDEN}),
    "gptj": ({"intermediate": INTERMEDIATE, "output": HIDDEN, "attention_norm": HIDDEN}, {"final_norm": HIDDEN}),
    "qwen2": ({"query": HIDDEN, "key": KEY_VALUE, "value": KEY_VALUE}, {}),
    "phi": ({**PROJECTIONS, "attention_norm": HIDDEN}, {"final_norm": HIDDEN}),
}
WITH_ADDED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    **{family: (GROUPED, {}) for family in ("qwen2", "qwen3", "llama", "mistral", "phi3")},
    **{family: (GROUPED, {}) for family in ("gemma", "gemma2", "gemma3_text")},
    "gptj": ({**PROJECTIONS, "attention_norm": HIDDEN}, {"final_norm": HIDDEN}),
}


def expected(inside: dict[str, int], outside: dict[str, int], layers: int = LAYERS) -> list[tuple[str, int, int]]:
    """(term, layer, width) in the order that find_sites promises."""
    return [
        (term, layer, inside.get(term, outside.get(term, 0)))
        for term in TERMS
        for layer in (range(layers) if term in inside else [0] if term in outside else [])
    ]


def described(sites: tuple[BiasSite, ...]) -> list[tuple[str, int, int]]:
    return [(site.term, site.layer, site.width) for site in sites]


@pytest.mark.parametrize("family", EXISTING)
def test_sites_are_those_counted_by_hand(tiny, family):
    sites = find_sites(tiny(family))
    assert described(sites) == expected(*EXISTING[family], layers=1 if family == "albert" else LAYERS)
    assert not any(site.added or site.stack for site in sites)


@pytest.mark.parametrize("family", [*EXISTING, "bart"])
def test_sites_cover_every_bias_of_the_layers_once(tiny, family):
    model = tiny(family)
    covered = {name: torch.zeros(p.shape, dtype=torch.int) for name, p in model.named_parameters() if p.dim() == 1}
    for site in find_sites(model):
        covered[f"{site.module}.{site.parameter}"][components(site)] += 1
    for name, count in covered.items():
        head = name.startswith(("classifi", "pre_classifier", "score")) or ".pooler." in f".{name}"
        head |= "embeddings_project" in name or "embedding_hidden_mapping_in" in name  # which widen the embeddings
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


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ENCODER_DECODER])
def test_modules_run_in_the_order_of_their_terms(tiny, tiny_batch, family):
    """A term that points at the wrong module is seen in the order of a forward pass."""
    model = tiny(family)
    sites = find_sites(model, add=True)
    calls = calls_of(model, sites, tiny_batch())
    if family not in ("albert", "deberta-v2"):  # shared layers; positions that pass by the projections of the text
        assert len(calls) == len(set(calls))
    assert set(calls) == {site.module for site in sites}
    at = {(site.term, site.layer): calls.index(site.module) for site in sites}
    for layer in range(1 if family == "albert" else LAYERS):
        attention = [at[term, layer] for term in ("query", "key", "value")]
        assert max(attention) < at["attention_output", layer] < at["intermediate", layer] < at["output", layer]
        if ("attention_norm", layer) in at:
            assert at["attention_norm", layer] < at["intermediate", layer]
        if ("output_norm", layer) in at:
            assert max(at["attention_norm", layer], at["attention_output", layer]) < at["output_norm", layer]
    assert at.get(("embedding_norm", 0), 0) == 0
    assert at.get(("final_norm", 0), len(calls) - 1) == len(calls) - 1


def calls_of(model, sites, batch) -> list[str]:
    """The modules of the sites in the order in which a forward pass calls them."""
    calls: list[str] = []
    for path in dict.fromkeys(site.module for site in sites):
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    model(**batch)
    return calls


@pytest.mark.parametrize("family", ENCODER_DECODER)
def test_an_encoder_and_a_decoder_have_one_numbering(tiny, tiny_batch, family):
    """Encoder first; a decoder's layer has two attentions, over its own tokens and over the encoder's."""
    model = tiny(family, decoder_layers=3) if family == "bart" else tiny(family, num_decoder_layers=3)
    sites = find_sites(model, add=True)
    layers = [0, 1, 2, 2, 3, 3, 4, 4]
    for term in ("query", "key", "value", "attention_output"):
        assert [site.layer for site in sites if site.term == term] == layers
    for term, width in (("intermediate", INTERMEDIATE), ("output", HIDDEN)):
        assert [(site.layer, site.width) for site in sites if site.term == term] == [(n, width) for n in range(5)]
    calls = calls_of(model, sites, tiny_batch())
    assert len(calls) == len(set(calls)) == len({site.module for site in sites})
    for site in sites:
        inside = site.term not in ("embedding_norm", "final_norm")
        assert site.stack == (("encoder" if site.layer < 2 else "decoder") if inside else "")
        number = site.layer - 2 if site.stack == "decoder" else site.layer
        list_of_layers = f"{site.stack}.{'layers' if family == 'bart' else 'block'}.{number}."
        assert not inside or list_of_layers in site.module
    by_module = {site.module: site for site in sites if site.stack}
    of_layers = [by_module[path] for path in calls if path in by_module]
    assert [site.layer for site in of_layers] == sorted(site.layer for site in of_layers)
    for layer in range(5):
        kinds = [site.term for site in of_layers if site.layer == layer and site.term in PROJECTIONS]
        attention = {"query", "key", "value"}
        assert set(kinds[:3]) == attention and kinds[3] == "attention_output"
        rest = kinds[4:] if layer < 2 else kinds[8:]
        assert layer < 2 or (set(kinds[4:7]) == attention and kinds[7] == "attention_output")
        assert rest == ["intermediate", "output"]


def test_a_gated_feed_forward_of_t5_is_found(tiny, tiny_batch):
    """Flan-T5: the bias of the gated projection, not that of the gate."""
    model = tiny("t5", feed_forward_proj="gated-gelu")
    sites = find_sites(model, ["intermediate"], add=True)
    assert [site.module.rpartition(".")[2] for site in sites] == ["wi_1"] * 4
    assert set(calls_of(model, sites, tiny_batch())) == {site.module for site in sites}


def test_gpt2_slices_are_the_parts_that_attention_splits(tiny):
    model = tiny("gpt2")
    fused = model.transformer.h[1].attn.c_attn.bias
    for term, part in zip(("query", "key", "value"), fused.split(HIDDEN), strict=True):
        site = find_sites(model, [term])[1]
        assert site.module == "transformer.h.1.attn.c_attn"
        assert torch.equal(read_bias(model, site), part)


@pytest.mark.parametrize("family", ["gpt_neox", "bloom"])
def test_interleaved_parts_are_those_that_attention_splits(tiny, family):
    """Each head has its query, key and value side by side: [heads, 3, width of a head]."""
    model = tiny(family)
    sites = {term: find_sites(model, [term])[1] for term in ("query", "key", "value")}
    bias = model.get_submodule(sites["query"].module).bias
    assert sites["query"].module.endswith("query_key_value")
    for part, site in enumerate(sites.values()):
        assert torch.equal(read_bias(model, site), bias.view(4, 3, 8)[:, part].flatten())
        assert site.name.endswith(f".bias[{8 * part}:{72 + 8 * part + 8}:8/24]")
    assert sorted(at for site in sites.values() for at in components(site)) == list(range(96))


def test_one_head_has_no_gaps(tiny):
    site = find_sites(tiny("gpt_neox", num_attention_heads=1), ["key"])[0]
    assert (site.start, site.stop, site.block, site.stride) == (32, 64, 0, 0)


def test_phi3_slices_are_the_parts_that_attention_splits(tiny):
    """Unequal parts: four heads of queries, two of keys, two of values; the gated half comes second."""
    sites = find_sites(tiny("phi3"), add=True)
    spans = {site.term: (site.start, site.stop) for site in sites}
    assert spans["query"] == (0, 32) and spans["key"] == (32, 48) and spans["value"] == (48, 64)
    assert spans["intermediate"] == (INTERMEDIATE, 2 * INTERMEDIATE)


def test_layers_that_are_shared_have_one_site(tiny):
    sites = find_sites(tiny("albert", num_hidden_layers=5))
    assert len(sites) == 9
    groups = find_sites(tiny("albert", num_hidden_layers=4, num_hidden_groups=2), ["value"])
    assert [site.layer for site in groups] == [0, 1]


@pytest.mark.parametrize("share", [True, False])
def test_positions_of_deberta_have_no_site_of_their_own(tiny, share):
    sites = find_sites(tiny("deberta-v2", share_att_key=share))
    assert described(sites) == expected(*EXISTING["deberta-v2"])


def test_deberta_v1_is_refused_with_the_reason():
    from transformers import DebertaConfig, DebertaForSequenceClassification

    config = DebertaConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(InputError, match=r"DeBERTa \(v1\): its query and value biases .* Use DeBERTa-v2 or v3"):
        find_sites(DebertaForSequenceClassification(config))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ENCODERS_ALONE])
def test_a_language_model_has_the_same_sites(tiny, family):
    """With another head, no other sites, and each below the same base model."""
    model = tiny(family, causal=True)
    with_head = find_sites(model, add=True)
    assert described(with_head) == described(find_sites(tiny(family), add=True))
    prefix = "" if family == "t5" else f"{model.base_model_prefix}."  # T5's holds encoder and decoder itself
    assert all(site.module.startswith(prefix) for site in with_head)
    assert not any("lm_head" in site.module or "embed_out" in site.module for site in with_head)


@pytest.mark.parametrize("family", WITH_ADDED)
def test_added_biases_have_the_width_of_their_projection(tiny, family):
    model = tiny(family)
    sites = find_sites(model, add=True)
    assert described(sites) == expected(*WITH_ADDED[family])
    inside, outside = EXISTING.get(family, ({}, {}))
    assert {site.term for site in sites if not site.added} == {*inside, *outside}
    for site in sites:
        assert family == "phi3" or site.width == model.get_submodule(site.module).weight.shape[0]
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


def test_a_decoder_that_lacks_its_encoder_is_an_error(tiny):
    from transformers import BartForCausalLM

    with pytest.raises(InputError, match="unknown"):
        find_sites(BartForCausalLM(tiny("bart").config))


def test_a_decoder_of_another_structure_is_an_error(tiny):
    model = tiny("bart")
    model.model.decoder.layers[1].encoder_attn.extra = nn.Linear(4, 4)
    with pytest.raises(InputError, match=r"model\.decoder\.layers has the structure of BART except in layer 1"):
        find_sites(model)


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
