"""IA3, LN-tuning and VeRA against PEFT's own models, whose modules are named by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import IA3Config, LNTuningConfig, VeraConfig, get_peft_model

from beft.comparison.baselines.ia3 import IA3
from beft.comparison.baselines.ln_tuning import LNTuning
from beft.comparison.baselines.lora import Lora
from beft.comparison.baselines.peft_layers import PeftLayers
from beft.comparison.baselines.vera import Vera
from beft.errors import InputError
from beft.models.classifier import Classifier
from tests.conftest import BIAS_FREE, FAMILIES, build_tiny, from_config
from tests.support.rows import random_rows, tiny_classifier
from tests.support.weights import assert_close, plain_loop, run_of, train

METHODS: dict[str, PeftLayers] = {"ia3": IA3(), "ln_tuning": LNTuning(), "vera": Vera(16)}
_LAYERS = {"bert": r"bert\.encoder\.layer\.\d+\.", "gpt2": r"transformer\.h\.\d+\.", "llama": r"model\.layers\.\d+\."}
_IA3 = {
    "bert": (r"attention\.self\.(?:key|value)", r"output\.dense"),
    "gpt2": (r"attn\.c_attn", r"mlp\.c_proj"),
    "llama": (r"self_attn\.(?:k_proj|v_proj)", r"mlp\.down_proj"),
}
_NORMS = {
    "bert": r"bert\.embeddings\.LayerNorm|bert\.encoder\.layer\.\d+\.(?:attention\.)?output\.LayerNorm",
    "gpt2": r"transformer\.(?:h\.\d+\.)?ln_[12f]",
    "llama": r"model\.(?:norm|layers\.\d+\.(?:input|post_attention)_layernorm)",
}
_PROJECTIONS = {
    "bert": r"attention\.self\.(?:query|value)",
    "gpt2": r"attn\.c_attn",
    "llama": r"self_attn\.(?:q_proj|v_proj)",
}
# Counted by hand. Hidden 32, intermediate 48, two layers; llama's keys and values are 16 wide, its norms have no bias,
# GPT-2's projection of queries, keys and values is one.
_COUNTS = {
    ("ia3", "bert"): 2 * (32 + 32 + 48),
    ("ia3", "gpt2"): 2 * (96 + 48),
    ("ia3", "llama"): 2 * (16 + 16 + 48),
    ("ln_tuning", "bert"): 5 * 2 * 32,
    ("ln_tuning", "gpt2"): 5 * 2 * 32,
    ("ln_tuning", "llama"): 5 * 32,
    ("vera", "bert"): 2 * (2 * 16 + 32 + 32),
    ("vera", "gpt2"): 2 * (16 + 96),
    ("vera", "llama"): 2 * (2 * 16 + 32 + 16),
}


def peft_s_own(name, family, model):
    """PEFT's model with the modules named by hand."""
    layers, transposed = _LAYERS[family], family == "gpt2"
    if name == "ia3":
        outputs, inputs = _IA3[family]
        config = IA3Config(
            target_modules=f"{layers}(?:{outputs}|{inputs})", feedforward_modules=layers + inputs,
            fan_in_fan_out=transposed,
        )  # fmt: skip
    elif name == "ln_tuning":
        config = LNTuningConfig(target_modules=_NORMS[family])
    else:
        config = VeraConfig(r=16, target_modules=layers + _PROJECTIONS[family], fan_in_fan_out=transposed)
    return get_peft_model(model, config)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_what_a_plain_loop_over_peft_s_model_trains(name, family):
    classifier, rows = tiny_classifier(family), random_rows(60)
    run = run_of(classifier, learning_rate=1e-2)
    model = copy.deepcopy(classifier.model)
    wrapped = peft_s_own(name, family, model)
    trained = {path: value for path, value in model.named_parameters() if value.requires_grad}
    assert wrapped.get_nb_trainable_parameters()[0] == sum(value.numel() for value in trained.values())
    start = {path: value.detach().clone() for path, value in trained.items()}
    head = [dict(model.named_parameters())[path].requires_grad_(True) for path in run.head]
    plain_loop(wrapped, list(trained.values()), run, rows, head=head)
    result = train(classifier, METHODS[name], run, rows)
    assert set(result.weights.values) == set(trained)
    assert result.weights.parameters == _COUNTS[name, family]
    for path, value in result.weights.values.items():
        assert_close(value, trained[path])
        assert float((value - start[path]).abs().max()) > 1e-3
    for path, value in zip(run.head, head, strict=True):
        assert_close(result.head[path], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_starts_as_the_base_and_trains_every_number(family):
    classifier = Classifier(build_tiny(family, dtype=torch.float64), None, None, ("a", "b", "c"))
    batch = random_rows(6, ended=True).encoded.batch(range(6))
    before, generator = classifier(batch), torch.Generator().manual_seed(0)
    for name, method in METHODS.items():
        state = method.start(classifier, classifier.head_parameters(), batch, 0)
        with method.attached(classifier, state) as trained:
            assert torch.equal(classifier(batch), before)
            for one in trained:  # the factors of VeRA's outputs start at zero, where the others have no gradient
                one.value.data += torch.rand(one.value.shape, dtype=torch.float64, generator=generator)
            after = classifier(batch)
            assert float((after - before).detach().abs().max()) > 1e-4
            after.square().sum().backward()
            assert all(one.value.grad is not None and bool(one.value.grad.any()) for one in trained)
        assert torch.equal(classifier(batch), before)
        biases = any(path.endswith(".bias") for path in state.values)
        assert biases == (name == "ln_tuning" and family not in (*BIAS_FREE, "qwen2")), "RMS norms have none"


def test_the_modules_are_the_paper_s_where_peft_s_own_list_is_another():
    """PEFT's list for OPT scales queries instead of values, the one for BERT what the attention's output reads."""
    opt, bert = tiny_classifier("opt").model, tiny_classifier("bert").model
    assert (
        sorted(path.rsplit(".", 1)[1] for path in IA3().modules(opt)) == ["fc2"] * 2 + ["k_proj"] * 2 + ["v_proj"] * 2
    )
    assert not any("attention.output" in path for path in IA3().modules(bert))
    assert len(LNTuning().modules(bert)) == 5
    bart = from_config("bart", eos_token_id=2)
    assert sum("encoder_attn.k_proj" in path for path in IA3().modules(bart)) == bart.config.decoder_layers
    assert not any(path.endswith(("encoder.layer_norm", "decoder.layer_norm")) for path in LNTuning().modules(bart))


def test_vera_s_matrices_are_those_of_every_seed_and_its_rank_is_checked():
    classifier, batch = tiny_classifier(), random_rows(2).encoded.batch([0, 1])
    states = [Vera(4).start(classifier, (), batch, seed) for seed in (0, 7)]
    assert all(torch.equal(value, states[1].values[path]) for path, value in states[0].values.items())
    moved = replace(states[0], values={path: value + 0.3 for path, value in states[0].values.items()})
    with Vera(4).attached(classifier, moved):
        first = classifier(batch)
    with Vera(4).attached(classifier, moved):
        assert torch.equal(classifier(batch), first)
    with pytest.raises(InputError, match="VeRA: rank 0; it must be 1 or more"):
        Vera(0)
    with (
        pytest.raises(InputError, match="VeRA: the trained weights belong to another base"),
        Vera(5).attached(classifier, moved),
    ):
        pass


@pytest.mark.parametrize("method", [*METHODS.values(), Lora()], ids=lambda one: one.name)
def test_a_base_that_it_does_not_fit_says_so_and_is_left_as_it_was(method):
    with pytest.raises(InputError, match="structure of Linear is unknown"):
        method.modules(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"built like DeBERTa \(v1\).*Use DeBERTa-v2"):
        method.modules(from_config("deberta"))
    classifier = tiny_classifier()
    modules = dict(classifier.model.named_modules())
    state = method.start(classifier, (), random_rows(1).encoded.batch([0]), 0)
    with pytest.raises(ZeroDivisionError), method.attached(classifier, state):
        assert dict(classifier.model.named_modules()) != modules
        raise ZeroDivisionError
    assert dict(classifier.model.named_modules()) == modules
    assert not hasattr(classifier.model, "peft_config")
