"""Prefix tuning against PEFT's own model, low-rank biases against a plain loop; and where a prefix cannot be."""

import copy

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch.func import functional_call

from beft.bank.bank import Bank
from beft.comparison.baselines.low_rank_value import LowRankValue, near_square
from beft.comparison.baselines.prefix import Prefix
from beft.errors import InputError
from beft.inference.features import predict_probabilities
from beft.models.classifier import Classifier
from beft.sites.site import find_sites
from beft.training.engine.weights import attached_weights
from tests.conftest import build_tiny, from_config
from tests.support.rows import random_rows, tiny_classifier
from tests.support.tiny_bases import tiny_tokenizer
from tests.support.weights import assert_close, plain_loop, run_of, train

WITH_PREFIX = ("bert", "roberta", "electra", "opt", "gpt2", "qwen2", "llama", "phi")
HIDDEN, LAYERS = 32, 2


def prefix_of(classifier, tokens=5, seed=3):
    rows = random_rows(4)
    return Prefix(tokens).start(classifier, classifier.head_parameters(), rows.encoded.batch([0]), seed)


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2", "llama"])
def test_prefix_trains_what_a_plain_loop_over_peft_s_model_trains(family):
    classifier, rows = tiny_classifier(family), random_rows(60)
    run = run_of(classifier, learning_rate=1e-2)
    start = prefix_of(classifier, seed=run.seed)
    result = train(classifier, Prefix(), run, rows)
    assert set(result.weights.values) == {"prefix"}
    wrapped = get_peft_model(
        copy.deepcopy(classifier.model), PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)
    )
    named = dict(wrapped.named_parameters())
    [prefix] = [value for name, value in named.items() if "prompt_encoder" in name]
    prefix.data = start.values["prefix"].clone()
    head = {
        name: named[f"base_model.{name.rsplit('.', 1)[0]}.modules_to_save.default.{name.rsplit('.', 1)[1]}"]
        for name in run.head
    }
    plain_loop(wrapped, [prefix], run, rows, head=list(head.values()))
    assert_close(result.weights.values["prefix"], prefix)
    assert float((prefix.detach() - start.values["prefix"]).abs().max()) > 1e-2
    for name, value in result.head.items():
        assert_close(value, head[name])
    kept = 16 if family == "llama" else HIDDEN  # grouped queries share keys and values
    assert result.weights.parameters == 5 * LAYERS * 2 * kept
    assert result.head_parameters == sum(value.numel() for value in head.values())


@pytest.mark.parametrize("family", WITH_PREFIX)
def test_a_prefix_changes_the_logits_and_takes_a_gradient_in_every_layer(family):
    """Encoders that are not decoders too: keys and values that they take must not be thrown away."""
    model = build_tiny(family, dtype=torch.float64)
    classifier = Classifier(model, None, None, ("a", "b", "c"))
    batch = random_rows(6).encoded.batch(range(6))
    before = classifier(batch)
    state = prefix_of(classifier)
    with Prefix().attached(classifier, state) as [trained]:
        after = classifier(batch)
        after.square().sum().backward()
        gradient = trained.value.grad
        assert gradient is not None
    assert float((after - before).detach().abs().amax(1).min()) > 1e-3, "every row sees the prefix"
    of_parts = gradient.view(5, 2 * LAYERS, -1).abs().amax((0, 2))
    assert float(of_parts.min()) > 1e-5, "keys and values of every layer"
    assert torch.equal(classifier(batch), before)


@pytest.mark.parametrize(("family", "key", "value"), [("bert", "key", "value"), ("opt", "k_proj", "v_proj")])
def test_a_prefix_starts_from_what_the_base_computes_for_drawn_tokens(family, key, value):
    classifier = tiny_classifier(family)
    state = prefix_of(classifier, seed=8)
    tokens = torch.randint(128, (1, 5), generator=torch.Generator().manual_seed(8))
    seen = {}
    named = [name for name, _ in classifier.model.named_modules() if name.endswith((f".{key}", f".{value}"))]
    hooks = [
        classifier.model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: output[0]})
        )
        for name in named
    ]
    with torch.no_grad():
        classifier.model(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    # Layer by layer, keys before values: by name the modules come in this order.
    expected = torch.stack([seen[name] for name in sorted(named)], 1)
    found = state.values["prefix"].view(5, 2 * LAYERS, HIDDEN)
    assert_close(found, expected)
    assert not torch.equal(found, prefix_of(classifier, seed=9).values["prefix"].view_as(found))


@pytest.mark.parametrize("family", ["mpnet", "distilbert", "albert", "deberta-v2", "bart"])
def test_a_base_that_takes_no_prefix_says_so(family):
    model = from_config(family, eos_token_id=2) if family == "bart" else build_tiny(family)
    classifier = Classifier(model, None, None, ("a", "b", "c"))
    why = "has an encoder beside its decoder" if family == "bart" else "takes no past_key_values"
    with pytest.raises(InputError, match=rf"prefix tuning is not available for this base: \w+Model {why}"):
        prefix_of(classifier)


def test_a_prefix_needs_room_and_is_computed_once():
    classifier = Classifier(build_tiny("bert"), tiny_tokenizer(), None, ("a", "b", "c"))
    long = random_rows(2, longest=30, seed=3)
    with (
        Prefix(12).attached(classifier, prefix_of(classifier, 12)),
        pytest.raises(InputError, match="more than the base's 32; use a max_length of 20"),
    ):
        classifier(long.encoded.batch([0, 1]))
    with pytest.raises(InputError, match=r"train\.activation_checkpointing must be false"):
        train(classifier, Prefix(), run_of(classifier, activation_checkpointing=True))
    with pytest.raises(InputError, match="1 or more"):
        Prefix(0)


@pytest.mark.parametrize("family", ["bert", "bloom", "llama"])
def test_low_rank_biases_train_as_a_plain_loop_trains_them(family):
    """The bias itself is made from A and B at every step of the plain loop: no hook, no bank."""
    classifier, rows = tiny_classifier(family), random_rows(60)
    method = LowRankValue(rank=2, alpha=3.0, add=family == "llama")
    run = run_of(classifier, learning_rate=5e-2)
    start = method.start(classifier, run.head, rows.encoded.batch([0]), run.seed)
    sites = find_sites(classifier.model, ["value"], add=family == "llama")
    model = copy.deepcopy(classifier.model)
    if family == "llama":
        for site in sites:
            module = model.get_submodule(site.module)
            module.bias = torch.nn.Parameter(torch.zeros(site.width, dtype=torch.float64), requires_grad=False)
    named = dict(model.named_parameters())
    matrices = {name: value.clone().requires_grad_(True) for name, value in start.values.items()}
    head = [named[name].requires_grad_(True) for name in run.head]

    def plain(**batch):
        biases = {}
        for site in sites:
            bias = named[f"{site.module}.bias"].clone()
            product = matrices[f"{site.name}.B"] @ matrices[f"{site.name}.A"]
            if family == "bloom":  # the heads' queries, keys and values stand side by side
                bias.view(4, 3, 8)[:, 2] += 3.0 / 2 * product.T.reshape(4, 8)
            else:
                bias[site.start : site.stop] += 3.0 / 2 * product.T.reshape(-1)
            biases[f"{site.module}.bias"] = bias
        return functional_call(model, biases, (), batch)

    plain_loop(plain, list(matrices.values()), run, rows, head=head)
    result = train(classifier, method, run, rows)
    for name, value in matrices.items():
        assert_close(result.weights.values[name], value)
        assert float((value.detach() - start.values[name]).abs().max()) > 1e-3
    for name, value in result.head.items():
        assert_close(value, named[name])
    factors = {32: (4, 8), 16: (4, 4)}[sites[0].width]
    assert result.weights.parameters == LAYERS * 2 * sum(factors)


def test_trained_low_rank_biases_are_an_adapter_of_biases():
    classifier, rows, method = tiny_classifier(), random_rows(60), LowRankValue(rank=2)
    result = train(classifier, method, run_of(classifier, learning_rate=5e-2), rows)
    deltas = method.deltas(classifier.model, result.weights)
    with attached_weights(classifier, method, result):
        expected = predict_probabilities(classifier, rows.encoded)
    with Bank(classifier.model, deltas, result.head):
        torch.testing.assert_close(predict_probabilities(classifier, rows.encoded), expected, rtol=0, atol=1e-6)
    for delta in deltas.values():
        matrix = delta.view(8, 4)
        assert torch.linalg.matrix_rank(matrix) == 2
        assert matrix.any()


def test_the_start_of_low_rank_biases_is_the_base_and_the_paper_s_sizes():
    classifier = tiny_classifier()
    batch = random_rows(5).encoded.batch(range(5))
    method = LowRankValue()
    state = method.start(classifier, classifier.head_parameters(), batch, 0)
    before = classifier(batch)
    with method.attached(classifier, state):
        assert torch.equal(classifier(batch), before)
    bound = 8**-0.5  # kaiming_uniform with a = sqrt(5) over m = 8 inputs
    drawn = torch.cat([value.flatten() for name, value in state.values.items() if name.endswith(".A")])
    assert 0.9 * bound < float(drawn.abs().max()) < bound
    assert [near_square(width) for width in (768, 384, 1024, 13)] == [(24, 32), (16, 24), (32, 32), (1, 13)]
    with pytest.raises(InputError, match="rank 0"):
        LowRankValue(rank=0)
    with pytest.raises(InputError, match="Did you mean 'value'"):
        LowRankValue(term="valeu")
    with pytest.raises(InputError, match=r"base\.add_biases: true"):
        LowRankValue().start(tiny_classifier("llama"), (), batch, 0)
