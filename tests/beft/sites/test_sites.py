"""The bias sites of a model, against hand counts from the configuration and the order of a forward pass."""

import pytest
import torch

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
