"""Inertness against shifts made in place, component by component (law 6)."""

import copy

import pytest
import torch
from torch import nn

from beft.bank import inertness
from beft.bank.bank import Bank
from beft.bank.inertness import inert_terms, measure_inertness
from beft.errors import BeftError, InputError
from beft.sites.site import find_sites, read_bias
from tests.conftest import FAMILIES
from tests.support.components import components

ATTENTION = ("query", "key", "value")
WITHOUT_ROTARY = (
    *("bert", "roberta", "electra", "mpnet", "distilbert", "albert", "opt", "gpt2"),
    *("bloom", "bart", "t5"),  # positions that are added to the scores; two attentions in a decoder's layer
)
HALF_ROTARY = ("gptj", "gpt_neox", "phi")
ROTARY = ("qwen2", "llama", "mistral", "gemma", "gemma2", "phi3")
NORMALISED = ("qwen3", "gemma3_text")


def moved_by_hand(model, sites, batch) -> dict[str, list[float]]:
    """How far each component, shifted alone in the parameter itself, moves the logits in fp64."""
    twin = copy.deepcopy(model).double()
    for site in sites:
        module = twin.get_submodule(site.module)
        if module.bias is None:
            module.bias = nn.Parameter(torch.zeros(site.width, dtype=torch.float64))
    moved: dict[str, list[float]] = {}
    with torch.no_grad():
        still = twin(**batch).logits
        for site in sites:
            bias = twin.get_submodule(site.module).bias
            for component in components(site):
                before = bias[component].clone()
                bias[component] += 0.7
                moved.setdefault(site.name, []).append(float((twin(**batch).logits - still).abs().max()))
                bias[component] = before
    return moved


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.float32) for family in WITHOUT_ROTARY), ("bert", torch.bfloat16), ("gpt2", torch.bfloat16)],
)
def test_without_rotary_positions_the_key_bias_is_inert(tiny, tiny_batch, family, dtype):
    model = tiny(family, dtype=dtype)
    inert = measure_inertness(model, find_sites(model, ATTENTION, add=True), batch=tiny_batch())
    for site, mask in inert.items():
        assert mask.dtype == torch.bool
        assert mask.shape == (site.width,)
        assert mask.all() == (site.term == "key")
        assert mask.any() == (site.term == "key")
    assert inert_terms(inert) == {"query": False, "key": True, "value": False}


@pytest.mark.parametrize(
    ("family", "attention"),
    [*((family, "eager") for family in ROTARY), ("llama", "sdpa"), ("qwen2", "sdpa")],
)
def test_with_rotary_positions_the_key_bias_acts(tiny, tiny_batch, family, attention):
    """Qwen2 has the bias, Llama gets it added; eager attention takes its softmax in fp32."""
    model = tiny(family, attn_implementation=attention)
    inert = measure_inertness(model, find_sites(model, ATTENTION, add=True), batch=tiny_batch())
    assert not any(components.any() for components in inert.values())


@pytest.mark.parametrize("family", NORMALISED)
def test_a_key_bias_before_a_norm_acts(tiny, tiny_batch, family):
    """Each head's key is normalised after its bias: its share differs from token to token, and is rotated too."""
    model = tiny(family)
    inert = measure_inertness(model, find_sites(model, ATTENTION, add=True), batch=tiny_batch())
    assert not any(mask.any() for mask in inert.values())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("attended", "inert"), [(["p2c", "c2p"], False), (["p2c"], False), (["c2p"], True)])
def test_the_key_bias_of_deberta_acts_where_positions_attend_to_content(tiny, tiny_batch, attended, inert, share):
    """Position to content multiplies the key by a query of the distance, which differs from key to key."""
    model = tiny("deberta-v2", pos_att_type=attended, share_att_key=share)
    found = inert_terms(measure_inertness(model, find_sites(model, ATTENTION), batch=tiny_batch()))
    assert found == {"query": False, "key": inert, "value": False}


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "phi", "gpt_neox", "deberta-v2"])
def test_components_are_those_that_move_no_logit_by_hand(tiny, tiny_batch, family):
    model, batch = tiny(family), tiny_batch()
    sites = find_sites(model, ATTENTION)
    inert = measure_inertness(model, sites, batch=batch)
    by_hand = moved_by_hand(model, sites, batch)
    for site in sites:
        assert inert[site].tolist() == [moved < 1e-7 for moved in by_hand[site.name]], site.name


@pytest.mark.parametrize("family", ["opt", "phi"])
def test_a_softmax_in_fp32_hides_nothing(tiny, tiny_batch, family):
    """Eager attention rounds its softmax to fp32, far above the tolerance, unless the copy keeps it in fp64."""
    batch = tiny_batch()
    models = [tiny(family, attn_implementation=kind) for kind in ("eager", "sdpa")]
    eager, fused = (measure_inertness(each, find_sites(each, ATTENTION), batch=batch) for each in models)
    assert all(torch.equal(eager[site], fused[site]) for site in eager)
    assert any(components.any() for components in eager.values())


@pytest.mark.parametrize("family", HALF_ROTARY)
def test_partial_rotary_is_inert_outside_of_the_rotated_components(tiny, tiny_batch, family):
    """These rotate the first half of each head: of every 8 components the first 4 act."""
    model = tiny(family)
    inert = measure_inertness(model, find_sites(model, ATTENTION, add=True), batch=tiny_batch())
    for site, mask in inert.items():
        expected = [False] * 4 + [site.term == "key"] * 4
        assert mask.tolist() == expected * 4
    assert inert_terms(inert) == {"query": False, "key": False, "value": False}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "albert", "gpt_neox", "bart", "t5"])
def test_every_other_term_acts(tiny, tiny_batch, family):
    model = tiny(family)
    inert = inert_terms(measure_inertness(model, find_sites(model, add=True), batch=tiny_batch()))
    assert [term for term, whole in inert.items() if whole] == (["key"] if family in WITHOUT_ROTARY else [])


def test_every_family_is_in_one_of_these_groups():
    groups = [*WITHOUT_ROTARY, *HALF_ROTARY, *ROTARY, *NORMALISED, "deberta-v2"]
    assert sorted(groups) == sorted(FAMILIES)


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2", "phi", "gpt_neox", "bloom", "deberta-v2"])
def test_fp32_finds_the_same_as_fp64(tiny, tiny_batch, family, monkeypatch):
    """What a model too large for an fp64 copy gets."""
    model = tiny(family)
    sites = find_sites(model, ATTENTION)
    exact = measure_inertness(model, sites, batch=tiny_batch())
    monkeypatch.setattr(inertness, "FP64_PARAMETERS", 0)
    rounded = measure_inertness(model, sites, batch=tiny_batch())
    assert all(torch.equal(exact[site], rounded[site]) for site in sites)


def test_the_gradient_in_half_precision_cannot_tell(tiny, tiny_batch):
    """The trap: in bf16 the gradient of the inert key bias is noise, not zero, and the measurement does not care."""
    model, batch = tiny("bert", dtype=torch.bfloat16).requires_grad_(False), tiny_batch()
    sites = find_sites(model, ["key"])
    deltas = {site: torch.zeros(site.width, requires_grad=True) for site in sites}
    with Bank(model, deltas):
        model(**batch).logits.sum().backward()
    assert all(delta.grad.any() for delta in deltas.values())
    assert inert_terms(measure_inertness(model, sites, batch=batch)) == {"key": True}


def test_a_unit_that_is_off_is_not_inert(tiny, tiny_batch):
    """Behind a ReLU a bias can have no gradient and still act once it is shifted far enough."""
    model, batch = tiny("opt"), tiny_batch()
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[5] = -6.0
        inputs: list[torch.Tensor] = []
        hook = model.model.decoder.layers[1].fc1.register_forward_hook(lambda *args: inputs.append(args[2]))
        model(**batch)
        hook.remove()
    assert (inputs[0][..., 5] < 0).all()
    sites = find_sites(model, ["intermediate"])
    assert not any(part.any() for part in measure_inertness(model, sites, batch=batch).values())


def counting() -> tuple[list[None], inertness.Logits]:
    """The logits of a model, and a list with an entry for each time that they were computed."""
    passes: list[None] = []

    def logits(model, tokens):
        passes.append(None)
        return model(**tokens).logits

    return passes, logits


def saturated(model) -> None:
    """Queries shifted by 0.5 leave each token one other to attend to, and so have no gradient."""
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.weight.mul_(0.01)
        layer.attention.self.query.bias.mul_(0.01)
        layer.attention.self.key.weight.mul_(5000)


def off(model) -> None:
    """Half of the units that follow a GELU are so far below zero that they give nothing."""
    for layer in model.bert.encoder.layer:
        layer.intermediate.dense.bias[::2] = -8.0


@pytest.mark.parametrize("change", [saturated, off])
def test_a_base_with_flat_places_takes_few_passes(tiny, tiny_batch, change):
    """all-mpnet-base-v2 took hours: where one point has no gradient, another one has, and halving is for the rest."""
    model, batch = tiny("bert"), tiny_batch()
    with torch.no_grad():
        change(model)
    passes, logits = counting()
    inert = measure_inertness(model, find_sites(model), batch=batch, logits=logits)
    assert {site.term for site, mask in inert.items() if mask.any()} == {"key"}
    assert inert_terms(inert)["key"]
    assert len(passes) < 60


def test_a_dead_component_among_others_is_found(tiny, tiny_batch):
    """Halving finds single components: here those whose way out of the feed-forward is cut."""
    model, batch = tiny("bert"), tiny_batch()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight[:, [3, 40]] = 0
    sites = find_sites(model, ["key", "intermediate"])
    inert = measure_inertness(model, sites, batch=batch)
    first = next(site for site in sites if site.term == "intermediate" and site.layer == 0)
    assert inert[first].nonzero().flatten().tolist() == [3, 40]
    assert inert_terms(inert) == {"key": True, "intermediate": False}


def test_halving_recovers_from_wrong_candidates(tiny, tiny_batch, monkeypatch):
    """If gradients proposed every component, the shifts alone still tell which are inert."""
    model, batch = tiny("phi", num_hidden_layers=1), tiny_batch()
    sites = find_sites(model, ["key", "value"])
    expected = measure_inertness(model, sites, batch=batch)
    monkeypatch.setattr(
        inertness._Measurement, "_candidates", lambda _, wanted: {site: torch.arange(site.width) for site in wanted}
    )
    found = measure_inertness(model, sites, batch=batch)
    assert all(torch.equal(found[site], expected[site]) for site in sites)


def test_the_model_stays_as_it_was(tiny, tiny_batch):
    model, batch = tiny("bert", dtype=torch.bfloat16).train(), tiny_batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (measure_inertness(model, find_sites(model), batch=batch, seed=3) for _ in range(2))
    assert all(torch.equal(first[site], second[site]) for site in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_own_logits_and_a_base_model(tiny, tiny_batch, bare):
    """A head outside of the model, which may cast to fp32: here the mean of the hidden states."""
    model, batch = bare(tiny("bert")), tiny_batch()
    direction = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))

    def logits(base, tokens):
        hidden = base(**tokens).last_hidden_state.float()
        return hidden.mean(1) @ direction.to(hidden.dtype)

    inert = measure_inertness(model, find_sites(model, ATTENTION), batch=batch, logits=logits)
    assert inert_terms(inert) == {"query": False, "key": True, "value": False}


def test_a_head_of_zeros_cannot_be_measured(tiny, tiny_batch):
    model = tiny("bert")
    nn.init.zeros_(model.classifier.weight)
    with pytest.raises(BeftError, match="do not depend on the value biases"):
        measure_inertness(model, find_sites(model), batch=tiny_batch())


def test_an_attached_bank_is_an_error(tiny, tiny_batch):
    model = tiny("bert")
    sites = find_sites(model, ["value"])
    with (
        Bank(model, {site: read_bias(model, site) for site in sites}),
        pytest.raises(InputError, match="a bank is attached"),
    ):
        measure_inertness(model, sites, batch=tiny_batch())


def test_no_sites_need_no_measurement(tiny):
    assert measure_inertness(tiny("bert"), [], batch={}) == {}
    assert inert_terms({}) == {}
