"""Baselines that train weights: each against a plain PyTorch loop, and against how the biases are trained."""

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from beft.comparison.baselines.full import FullFineTuning
from beft.comparison.baselines.ia3 import IA3
from beft.comparison.baselines.ln_tuning import LNTuning
from beft.comparison.baselines.lora import Lora
from beft.comparison.baselines.low_rank_value import LowRankValue
from beft.comparison.baselines.prefix import Prefix
from beft.comparison.baselines.rand_uniform import RandUniform
from beft.comparison.baselines.vera import Vera
from beft.errors import BeftError, InputError
from beft.inference.features import predict_probabilities
from beft.inference.runs import WeightsState
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.engine.weight_method import WeightMethod, used_parameters
from beft.training.engine.weights import attached_weights
from tests.support.rows import random_rows, tiny_classifier
from tests.support.weights import accuracy, assert_close, plain_loop, quiet, run_of, train

METHODS = {
    "full": FullFineTuning(),
    "rand_uniform": RandUniform(500),
    "lora": Lora(),
    "prefix": Prefix(),
    "low_rank_value": LowRankValue(rank=2),
    "ia3": IA3(),
    "ln_tuning": LNTuning(),
    "vera": Vera(16),
}
TARGETS = {
    "bert": r"bert\.encoder\.layer\.\d+\.attention\.self\.(query|value)",
    "mpnet": r"mpnet\.encoder\.layer\.\d+\.attention\.attn\.(q|v)",
    "gpt2": r"transformer\.h\.\d+\.attn\.c_attn",
    "llama": r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)",
}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_full_fine_tuning_trains_what_a_plain_loop_trains(family):
    classifier, rows = tiny_classifier(family), random_rows(60)
    run = run_of(classifier, head_learning_rate=5e-3)
    model = copy.deepcopy(classifier.model)
    named = dict(model.requires_grad_(True).named_parameters())
    head = [named[name] for name in run.head]
    plain_loop(model, [value for name, value in named.items() if name not in run.head], run, rows, head=head)
    result = train(classifier, FullFineTuning(), run, rows)
    assert result.steps == 24
    assert set(result.weights.values) | set(result.head) == set(named)
    for name, value in {**result.weights.values, **result.head}.items():
        assert_close(value, named[name])
    before = dict(classifier.model.named_parameters())
    assert sum(float((named[name] - before[name]).detach().abs().max()) > 1e-3 for name in named) > len(named) / 2
    assert result.weights.parameters + result.head_parameters == sum(one.numel() for one in named.values())


def test_biases_trained_as_weights_come_out_as_a_bias_run_trains_them():
    """The same order, schedule, clipping, dropout, loss, dev evaluation and choice: biases trained as weights."""

    class OnlyValueBiases(WeightMethod):
        name, learning_rate = "value biases", 1e-2

        def start(self, classifier, head, batch, seed):
            named = dict(classifier.model.named_parameters())
            names = [f"{site.module}.bias" for site in find_sites(classifier.model, ["value"])]
            return WeightsState({name: named[name].detach().clone() for name in names})

    classifier = tiny_classifier()
    rows, dev = random_rows(110), random_rows(40, seed=9)
    run = run_of(
        classifier,
        select="best",
        epochs=6,
        learning_rate=0.05,
        head_learning_rate=2e-2,
        warmup_fraction=0.2,
        dropout=True,
        patience=2,
        clip_norm=0.5,
        micro_batch_size=5,
    )
    found = train(classifier, OnlyValueBiases(), run, rows, dev)
    sites = find_sites(classifier.model, ["value"])
    [expected] = fit(classifier, rows, dev, [replace(run, sites=sites)], metric=accuracy, progress=quiet)
    assert (found.best_epoch, found.steps) == (expected.best_epoch, expected.steps)
    assert found.best_epoch < found.history[-1]["epoch"], "the case must be one in which the last epoch is not the best"
    for one, other in zip(found.history, expected.history, strict=True):
        assert one == pytest.approx(other, rel=1e-8)
    named = dict(classifier.model.named_parameters())
    for site, delta in expected.deltas.items():
        assert float(delta.abs().max()) > 1e-2
        assert_close(found.weights.values[f"{site.module}.bias"], named[f"{site.module}.bias"] + delta)
    for name, value in expected.head.items():
        assert_close(found.head[name], value)


def test_rand_uniform_moves_the_drawn_weights_and_no_other():
    """A plain loop whose gradients are masked trains the same values; the base's other weights stay."""
    classifier, rows = tiny_classifier(), random_rows(60)
    run = run_of(classifier, learning_rate=1e-2)
    result = train(classifier, RandUniform(500), run, rows)
    model = copy.deepcopy(classifier.model)
    named = dict(model.requires_grad_(True).named_parameters())
    masks = {name: torch.zeros_like(value) for name, value in named.items()}
    for name, index in result.weights.indices.items():
        masks[name].view(-1)[index] = 1
    masks |= {name: torch.ones_like(named[name]) for name in run.head}

    def after():
        for name, value in named.items():
            value.grad = value.grad * masks[name]

    plain_loop(model, list(named.values()), run, rows, after=after)
    assert result.weights.parameters == sum(map(len, result.weights.indices.values())) == 500
    assert result.head_parameters == 3 * 32 + 3
    moved = 0
    with attached_weights(classifier, RandUniform(500), result):
        inside = {name: value.detach().clone() for name, value in classifier.model.named_parameters()}
    for name, value in classifier.model.named_parameters():
        if name in run.head:
            assert_close(result.head[name], named[name])
            continue
        assert torch.equal(inside[name][masks[name] == 0], value[masks[name] == 0])
        assert_close(inside[name], named[name])
        moved += int((inside[name] != value).sum())
    assert 0.5 * 500 < moved <= 500, "embeddings of tokens that no row has do not move"


def test_rand_uniform_is_uniform_over_the_base():
    classifier = tiny_classifier()
    batch = random_rows(1).encoded.batch([0])
    head = classifier.head_parameters()
    base = dict(classifier.model.bert.named_parameters(prefix="bert"))
    total = sum(value.numel() for value in base.values())
    state = RandUniform(total // 4).start(classifier, head, batch, 0)
    for name, index in state.indices.items():
        count, share = base[name].numel(), len(index) / base[name].numel()
        assert len(torch.unique(index)) == len(index), "without replacement"
        assert abs(share - 0.25) < 5 * (0.25 * 0.75 / count) ** 0.5
        assert torch.equal(state.values[name], base[name].detach().flatten()[index])
    drawn = [RandUniform(50).start(classifier, head, batch, seed).indices for seed in (1, 1, 2)]
    flat = [[(name, *index.tolist()) for name, index in one.items()] for one in drawn]
    assert flat[0] == flat[1] != flat[2]
    everything = RandUniform(total).start(classifier, head, batch, 0)
    assert everything.parameters == total
    with pytest.raises(InputError, match=f"base has {total:,}"):
        RandUniform(total + 1).start(classifier, head, batch, 0)
    with pytest.raises(InputError, match="1 or more"):
        RandUniform(0)


def test_rand_uniform_draws_nothing_of_the_head():
    """DistilBERT's head has a layer below its output layer, which a bias run leaves frozen."""
    classifier = tiny_classifier("distilbert")
    head, batch = classifier.head_parameters(), random_rows(1).encoded.batch([0])
    total = sum(value.numel() for value in classifier.model.distilbert.parameters())
    state = RandUniform(total).start(classifier, head, batch, 0)
    assert state.parameters == total
    assert not any("classifier" in name for name in state.values)
    assert "pre_classifier.weight" in FullFineTuning().start(classifier, head, batch, 0).values


@pytest.mark.parametrize("family", TARGETS)
def test_lora_trains_what_a_plain_loop_over_peft_s_model_trains(family):
    classifier, rows = tiny_classifier(family), random_rows(60)
    run = run_of(classifier, learning_rate=1e-2)
    model = copy.deepcopy(classifier.model)
    torch.manual_seed(run.seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2")
    wrapped = get_peft_model(model, config)
    named = dict(model.named_parameters())
    trained = [value for name, value in named.items() if "lora_" in name]
    head = [named[name].requires_grad_(True) for name in run.head]
    plain_loop(wrapped, trained, run, rows, head=head)
    result = train(classifier, Lora(), run, rows)
    assert set(result.weights.values) == {name for name in named if "lora_" in name}
    for name, value in {**result.weights.values, **result.head}.items():
        assert_close(value, named[name])
    assert all(bool(value.any()) for value in result.weights.values.values())
    outputs = {"bert": (32, 32), "mpnet": (32, 32), "gpt2": (96,), "llama": (32, 16)}[family]
    assert result.weights.parameters == 2 * sum(8 * (32 + width) for width in outputs)


@pytest.mark.parametrize(
    ("family", "modules"),
    [
        ("gpt_neox", r"gpt_neox\.layers\.\d\.attention\.query_key_value"),
        ("phi3", r"model\.layers\.\d\.self_attn\.qkv_proj"),
        ("albert", r"albert\.encoder\.albert_layer_groups\.0\.albert_layers\.0\.attention\.(query|value)"),
        ("bart", r"model\.(en|de)coder\.layers\.\d\.(self|encoder)_attn\.[qv]_proj"),
        ("t5", r"transformer\.(en|de)coder\.block\.\d\.layer\.\d\.(Self|EncDec)Attention\.[qv]"),
    ],
)
def test_weights_of_every_kind_of_family_are_trained(family, modules):
    """LoRA at every query and value projection; full fine-tuning of all weights that the logits depend on."""
    classifier = tiny_classifier(family)
    named = [path for path, _ in classifier.model.named_modules() if re.fullmatch(modules, path)]
    assert sorted(Lora().modules(classifier.model)) == sorted(named)
    batch = random_rows(2, ended=True).encoded.batch([0, 1])
    trained = FullFineTuning().start(classifier, classifier.head_parameters(), batch, 0).values
    assert {f"{path}.weight" for path in named} <= set(trained)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_is_left_bit_for_bit(name, dtype):
    classifier = tiny_classifier(dtype=dtype)
    rows, dev = random_rows(40), random_rows(20, seed=1)
    before = {key: (value, value.clone()) for key, value in classifier.model.state_dict().items()}
    storage = {key: value.data_ptr() for key, value in classifier.model.named_parameters()}
    method = METHODS[name]
    checkpointing = method.recomputable
    run = run_of(
        classifier, select="best", epochs=2, dropout=True, learning_rate=1e-2, activation_checkpointing=checkpointing
    )
    random_state = torch.get_rng_state()
    method.start(classifier, run.head, rows.encoded.batch([0]), 0)
    assert torch.equal(torch.get_rng_state(), random_state)
    result = train(classifier, method, run, rows, dev)
    with attached_weights(classifier, method, result):
        trained = predict_probabilities(classifier, dev.encoded)
    assert not torch.equal(trained, predict_probabilities(classifier, dev.encoded))
    assert accuracy(trained.numpy(), dev.labels) == result.history[result.best_epoch - 1]["dev_metric"]
    assert set(classifier.model.state_dict()) == set(before)
    for key, value in classifier.model.state_dict().items():
        assert torch.equal(value, before[key][1]), key
        assert torch.equal(before[key][0], before[key][1]), f"{key} was written to"
    assert storage == {key: value.data_ptr() for key, value in classifier.model.named_parameters()}
    assert not any(module.training or "forward" in module.__dict__ for module in classifier.modules())
    assert not any(value.requires_grad or value.grad is not None for value in classifier.model.parameters())
    assert not any(value._post_accumulate_grad_hooks for value in classifier.model.parameters())
    assert not hasattr(classifier.model, "peft_config")
    assert all(value.dtype == torch.float32 for value in itertools.chain(result.weights.values.values()))


@pytest.mark.parametrize("name", METHODS)
def test_what_is_frozen_gets_no_gradient(name):
    """While attached, exactly the trained parameters ask for one."""
    classifier, rows = tiny_classifier(), random_rows(8)
    state = METHODS[name].start(classifier, classifier.head_parameters(), rows.encoded.batch([0]), 0)
    with METHODS[name].attached(classifier, state) as trained:
        asked = {key for key, value in classifier.model.named_parameters() if value.requires_grad}
        assert {one.name for one in trained} == set(state.values)
        assert asked == set(state.values) & set(dict(classifier.model.named_parameters()))
        classifier(rows.encoded.batch(np.arange(8))).square().sum().backward()
        gradients = {key for key, value in classifier.model.named_parameters() if value.grad is not None}
        assert gradients <= asked
        assert all(one.value.grad is not None and one.value.grad.shape == one.value.shape for one in trained)


def test_bf16_has_fp32_masters_that_keep_small_steps():
    """Steps that bf16 would round away add up: the values are no bf16 numbers, and near those of an fp32 training."""
    classifier, rows = tiny_classifier(dtype=torch.bfloat16), random_rows(60)
    run = run_of(classifier, learning_rate=1e-4)
    for method in METHODS.values():
        result = train(classifier, method, run, rows)
        rounded = torch.cat([value.bfloat16().float().flatten() for value in result.weights.values.values()])
        exact = torch.cat([value.flatten() for value in result.weights.values.values()])
        assert float((rounded != exact).float().mean()) > 0.3


def test_activation_parts_add_up():
    classifier, rows = tiny_classifier(), random_rows(60)
    for method in METHODS.values():
        run = run_of(classifier)
        whole = train(classifier, method, run, rows)
        settings = run.settings.model_copy(
            update={"micro_batch_size": 3, "activation_checkpointing": method.recomputable}
        )
        parts = train(classifier, method, replace(run, settings=settings), rows)
        for name, value in whole.weights.values.items():
            assert_close(parts.weights.values[name], value)


def test_the_head_starts_where_it_is_told_and_a_pooler_that_is_not_used_is_no_weight():
    classifier = tiny_classifier(pooling="mean")
    used = used_parameters(classifier, random_rows(1).encoded.batch([0]))
    unused = {name for name, _ in classifier.model.named_parameters()} - set(used)
    assert unused == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    start = {"classifier.weight": torch.full((3, 32), 7.0)}
    result = train(classifier, FullFineTuning(), run_of(classifier, epochs=1, initial_head=start))
    assert float((result.head["classifier.weight"] - 7).abs().max()) < 0.1
    assert set(result.weights.values) | set(result.head) == set(used)


def test_a_base_may_be_given_up():
    classifier, rows = tiny_classifier(dtype=torch.float32), random_rows(40)
    expected = train(classifier, FullFineTuning(), run_of(classifier, epochs=1), rows)
    found = train(classifier, FullFineTuning(keep_base=False), run_of(classifier, epochs=1), rows)
    for name, value in classifier.model.named_parameters():
        assert not value.requires_grad
        if name in found.weights.values:
            assert torch.equal(found.weights.values[name], expected.weights.values[name])
            assert torch.equal(value, found.weights.values[name])


def test_the_last_epoch_counts_without_dev():
    classifier, rows = tiny_classifier(), random_rows(40)
    result = train(classifier, Lora(rank=2), run_of(classifier, epochs=2), rows)
    assert result.best_epoch == 2
    assert [sorted(record) for record in result.history] == [["epoch", "step", "train_loss"]] * 2
    assert result.seconds > 0
    assert result.peak_memory > 0


def test_a_base_whose_weights_take_no_gradient_is_refused():
    """Rather than training what is left of it and calling that full fine-tuning."""
    batch = random_rows(1).encoded.batch([0])
    narrow, quantised = tiny_classifier(dtype=torch.float32), tiny_classifier(dtype=torch.float32)
    layer = narrow.model.bert.encoder.layer[1].attention.self.value
    layer.forward = lambda input: functional.linear(input, layer.weight.detach(), layer.bias)
    rounded = quantised.model.bert.encoder.layer[0].intermediate.dense
    weight = rounded.weight.detach()
    rounded.weight = torch.nn.Parameter((weight * 50).to(torch.int8), requires_grad=False)
    rounded.forward = lambda input: functional.linear(input, weight, rounded.bias)
    for classifier, named in ((narrow, "layer.1.attention.self.value"), (quantised, "layer.0.intermediate.dense")):
        for method in (FullFineTuning(), RandUniform(5)):
            with pytest.raises(InputError, match=rf"{named}.weight takes no gradient"):
                method.start(classifier, classifier.head_parameters(), batch, 0)


def test_bad_input_is_named():
    classifier, rows = tiny_classifier(), random_rows(20)
    run = run_of(classifier)
    with pytest.raises(InputError, match="no dev split"):
        train(classifier, FullFineTuning(), replace(run, select="best"), rows)
    with pytest.raises(InputError, match="takes none"):
        train(classifier, FullFineTuning(), replace(run, sites=find_sites(classifier.model, ["value"])), rows)
    with pytest.raises(InputError, match="each must be 1 or more"):
        Lora(rank=0)
    with pytest.raises(InputError, match="Did you mean 'query'"):
        Lora(terms=["quary"])
    with pytest.raises(BeftError, match="the loss is"):
        start = {"classifier.bias": torch.full((3,), float("nan"))}
        train(classifier, FullFineTuning(), run_of(classifier, initial_head=start), rows)
    assert not any(value.requires_grad for value in classifier.model.parameters()), "freed after an error too"
    for method in METHODS.values():
        result = train(classifier, method, run_of(classifier, epochs=1), rows)
        with (
            pytest.raises(InputError, match=r"belongs? to another base"),
            attached_weights(tiny_classifier("qwen2"), method, result),
        ):
            pass
