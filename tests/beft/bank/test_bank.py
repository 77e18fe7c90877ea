"""The bank against deep copies of the model whose own biases were edited in place (laws 1 and 2)."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from beft.adapters.folding import fold
from beft.bank.bank import Bank
from beft.errors import BeftError, InputError
from beft.sites.site import BiasSite, find_sites
from tests.conftest import FAMILIES
from tests.support.components import components

HALF = [torch.bfloat16, torch.float16]


def draw(sites, seed=0, dtype=torch.float32, scale=0.3, requires_grad=False) -> dict[BiasSite, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        site: (torch.randn(site.width, generator=generator, dtype=dtype) * scale).requires_grad_(requires_grad)
        for site in sites
    }


def edited(model, deltas, head=None):
    """A deep copy whose own parameters hold the sums: the computation that the bank must equal."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for site, delta in deltas.items():
            module = twin.get_submodule(site.module)
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(module.weight.shape[0], dtype=module.weight.dtype))
            module.bias[components(site)] += delta.detach()
        for name, tensor in (head or {}).items():
            twin.get_parameter(name).copy_(tensor.detach())
    return twin


def state(model) -> dict[str, tuple[int, bytes]]:
    """Where each tensor of the model is stored, and its bytes."""
    return {
        name: (tensor.data_ptr(), tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_bank_equals_biases_edited_in_place(tiny, tiny_batch, family):
    model, batch = tiny(family, dtype=torch.float64), tiny_batch()
    deltas = draw(find_sites(model, add=True), dtype=torch.float64)
    reference = edited(model, deltas)(**batch).logits
    before = model(**batch).logits
    with Bank(model, deltas):
        banked = model(**batch).logits
    assert (banked - reference).abs().max() < 1e-12
    assert (banked - before).abs().max() > 1e-2
    assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gpt_neox", "phi3", "albert", "t5"])
@pytest.mark.parametrize("term", ["query", "key", "value", "attention_output", "intermediate", "output"])
def test_one_term_alone(tiny, tiny_batch, family, term):
    """In GPT-2, GPT-NeoX and Phi-3 the other parts of the fused projection stay as they are."""
    model, batch = tiny(family, dtype=torch.float64), tiny_batch()
    deltas = draw(find_sites(model, [term], add=True), dtype=torch.float64)
    with Bank(model, deltas):
        banked = model(**batch).logits
    assert (banked - edited(model, deltas)(**batch).logits).abs().max() < 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_real_biases(tiny, tiny_batch, family):
    model, batch = tiny(family, dtype=torch.float64).requires_grad_(False), tiny_batch()
    deltas = draw(find_sites(model, add=True), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1])

    twin = edited(model, deltas)
    for site in deltas:
        twin.get_submodule(site.module).bias.requires_grad_(True)
    F.cross_entropy(twin(**batch).logits, labels).backward()

    with Bank(model, deltas):
        F.cross_entropy(model(**batch).logits, labels).backward()
    for site, delta in deltas.items():
        expected = twin.get_submodule(site.module).bias.grad[components(site)]
        assert (delta.grad - expected).abs().max() < 1e-12, site.name
    assert any(delta.grad.abs().max() > 1e-3 for delta in deltas.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_input_of_a_frozen_linear_is_saved(tiny, tiny_batch):
    model, batch = tiny("bert").requires_grad_(False), tiny_batch()
    sites = find_sites(model, ["query", "key", "value", "intermediate", "output"])
    saved: set[int] = set()
    inputs: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.add(tensor.data_ptr())
        return tensor

    hooks = [
        model.get_submodule(site.module).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for site in sites
        if site.layer == 1  # below the first bias there is nothing to save in any case
    ]
    deltas = draw(sites, requires_grad=True)
    with Bank(model, deltas), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**batch).logits.sum().backward()
    assert len(inputs) == len(hooks) == 5
    assert saved
    assert not saved & {tensor.data_ptr() for tensor in inputs}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attach_writes_nothing_and_detach_gives_the_base_back(tiny, tiny_batch, family, dtype):
    model, batch = tiny(family, dtype=dtype).requires_grad_(False), tiny_batch()
    deltas = draw(find_sites(model, add=True), requires_grad=True)
    output = next(name for name, _ in reversed(list(model.named_parameters())) if name.endswith("weight"))
    head = {output: torch.randn(model.get_parameter(output).shape, requires_grad=True)}
    before, logits = state(model), model(**batch).logits
    bank = Bank(model, deltas, head)
    with bank:
        banked = model(**batch).logits
        banked.sum().backward()
        assert banked.isfinite().all()
        assert state(model) == before
        with torch.no_grad():
            for tensor in (*deltas.values(), *head.values()):
                tensor -= 0.1 * tensor.grad  # a step of an optimiser changes the bank, never the base
        assert not torch.equal(model(**batch).logits, banked)
    assert state(model) == before
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert torch.equal(model(**batch).logits, logits)


def test_an_error_inside_the_block_detaches(tiny, tiny_batch):
    model, batch = tiny("bert"), tiny_batch()
    before = model(**batch).logits
    with pytest.raises(ZeroDivisionError), Bank(model, draw(find_sites(model))):
        raise ZeroDivisionError
    assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_bias_is_an_output_bias(tiny, tiny_batch, family):
    """The weights of attention sum to one, so b_v reaches the output as W_o b_v: law 1's independent check."""
    model, batch = tiny(family, dtype=torch.float64), tiny_batch()
    values = draw(find_sites(model, ["value"], add=True), dtype=torch.float64)
    outputs = {}
    for value_site, output_site in zip(values, find_sites(model, ["attention_output"], add=True), strict=True):
        weight = model.get_submodule(output_site.module).weight
        weight = weight.T if family == "gpt2" else weight  # Conv1D keeps its weight transposed
        heads = values[value_site].view(-1, 8)  # head width 8
        shared = heads.repeat_interleave(weight.shape[1] // values[value_site].numel(), 0)
        outputs[output_site] = (weight @ shared.flatten()).detach()
    before = model(**batch).logits
    with Bank(model, values):
        by_value = model(**batch).logits
    with Bank(model, outputs):
        by_output = model(**batch).logits
    # BLOOM and Gemma-2 take the softmax in fp32, whose weights sum to one no more exactly than that.
    assert (by_value - by_output).abs().max() < (1e-6 if family in ("bloom", "gemma2") else 1e-12)
    assert (by_value - before).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_half_precision_base_sums_in_fp32(tiny, tiny_batch, family, dtype):
    model, batch = tiny(family, dtype=dtype), tiny_batch()
    deltas = draw(find_sites(model), scale=0.01)
    twin = copy.deepcopy(model)
    by_module: dict[str, Tensor] = {}
    for site, delta in deltas.items():
        module = twin.get_submodule(site.module)
        wide = by_module.setdefault(site.module, module.bias.detach().float())
        wide[site.start : site.stop] += delta
    with torch.no_grad():
        for path, wide in by_module.items():
            twin.get_submodule(path).bias.copy_(wide)  # rounded once
    with Bank(model, deltas):
        logits = model(**batch).logits
    assert logits.dtype == dtype
    assert torch.equal(logits, twin(**batch).logits)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_fp32_output_layer_on_a_half_precision_base(tiny, tiny_batch, family, dtype):
    model, batch = tiny(family, dtype=dtype), tiny_batch()
    names = ("classifier.out_proj", "classification_head.out_proj", "classifier", "score")
    layer = next(path for path, module in model.named_modules() if path in names and isinstance(module, nn.Linear))
    parameters = dict(model.get_submodule(layer).named_parameters())
    head = {f"{layer}.{name}": torch.randn(p.shape, requires_grad=True) for name, p in parameters.items()}
    seen: list[Tensor] = []
    model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with Bank(model, draw(find_sites(model, ["value"], add=True)), head):
        logits = model(**batch).logits
    assert logits.dtype == torch.float32
    assert seen[0].dtype == dtype
    expected = F.linear(seen[0].float(), head[f"{layer}.weight"], head.get(f"{layer}.bias"))
    if expected.dim() == 3:  # a decoder scores every token and takes the last that is no padding
        expected = expected[torch.arange(len(expected)), batch["attention_mask"].sum(1) - 1]
    assert torch.equal(logits, expected)
    logits.sum().backward()
    assert all(tensor.grad.dtype == torch.float32 and tensor.grad.any() for tensor in head.values())


def test_a_head_with_its_inner_layer(tiny, tiny_batch):
    model, batch = tiny("roberta", dtype=torch.float64), tiny_batch()
    head = {n: torch.randn_like(p) for n, p in model.named_parameters() if n.startswith("classifier.")}
    assert len(head) == 4
    with Bank(model, {}, head):
        banked = model(**batch).logits
    assert (banked - edited(model, {}, head)(**batch).logits).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_pooler_bias_alone_is_computed_in_the_type_of_its_weight(tiny, tiny_batch, dtype):
    """The paper's head: the pooler's bias and the output layer."""
    model, batch = tiny("bert", dtype=dtype), tiny_batch()
    head = {"bert.pooler.dense.bias": torch.randn(32)}
    with Bank(model, {}, head):
        banked = model(**batch).logits
    assert banked.dtype == dtype
    assert torch.equal(banked, edited(model, {}, head)(**batch).logits)


def test_a_norm_and_a_conv1d_in_the_head(tiny, tiny_batch):
    model, batch = tiny("gpt2", dtype=torch.float64), tiny_batch()
    names = ["transformer.ln_f.weight", "transformer.ln_f.bias", "transformer.h.1.mlp.c_proj.weight"]
    head = {name: torch.randn_like(model.get_parameter(name)) for name in names}
    with Bank(model, {}, head):
        banked = model(**batch).logits
    assert (banked - edited(model, {}, head)(**batch).logits).abs().max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.data())
def test_any_slices_of_a_linear(width, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, width), min_size=2, max_size=6)) if width > 1 else {0, 1})
    model = nn.Sequential(nn.Linear(3, width, bias=data.draw(st.booleans()), dtype=torch.float64))
    added = model[0].bias is None
    spans = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    spans = spans[: data.draw(st.integers(1, len(spans)))]
    deltas = draw([BiasSite("value", 0, "0", "bias", a, b, added) for a, b in spans], dtype=torch.float64)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    shift = torch.zeros(width, dtype=torch.float64)
    for site, delta in deltas.items():
        shift[site.start : site.stop] = delta
    with Bank(model, deltas):
        assert (model(x) - (x @ model[0].weight.T + (0 if added else model[0].bias) + shift)).abs().max() < 1e-12


def test_banks_over_different_modules_live_side_by_side(tiny, tiny_batch):
    model, batch = tiny("bert", dtype=torch.float64), tiny_batch()
    query, value = (draw(find_sites(model, [term]), dtype=torch.float64) for term in ("query", "value"))
    with Bank(model, query):
        with Bank(model, value):
            both = model(**batch).logits
        alone = model(**batch).logits
    assert (both - edited(model, {**query, **value})(**batch).logits).abs().max() < 1e-12
    assert (alone - edited(model, query)(**batch).logits).abs().max() < 1e-12


def test_a_second_bank_over_the_same_module_is_an_error(tiny, tiny_batch):
    model, batch = tiny("gpt2"), tiny_batch()
    first, second = (Bank(model, draw(find_sites(model, [term]))) for term in ("value", "query"))
    third = Bank(model, draw(find_sites(model, ["output"])) | draw(find_sites(model, ["key"])))
    with first:
        logits = model(**batch).logits
        for bank in (second, third):  # a fused projection is one module; nothing of the third stays attached
            with pytest.raises(InputError, match="attached already"):
                bank.attach()
        with pytest.raises(InputError, match="attached already"):
            first.attach()
        second.detach()
        assert torch.equal(model(**batch).logits, logits)
    first.detach()
    with second:
        assert not torch.equal(model(**batch).logits, logits)


def test_a_copy_of_an_attached_model_stands_alone(tiny, tiny_batch):
    model, batch = tiny("bert"), tiny_batch()
    with Bank(model, draw(find_sites(model))):
        banked = model(**batch).logits
        twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(**batch).logits, banked)


class Quantised(nn.Linear):
    """A class made from nn.Linear may compute in a way of its own."""


def test_what_does_not_fit_is_an_error(tiny):
    model = tiny("bert")
    sites = find_sites(model, ["value"])
    value = sites[0]
    wrong: list[tuple[dict, dict, str]] = [
        ({value: torch.zeros(31)}, {}, r"value\.bias\[0:32\]: shape \(31,\), but the site's is \(32,\)"),
        ({value: torch.zeros(2, 31)}, {}, r"shape \(2, 31\)"),
        ({value: torch.zeros(2, 32)}, {}, "does not keep the rows of a batch apart"),
        ({value: torch.zeros(2, 32)}, {"classifier.bias": torch.zeros(3)}, r"as many vectors .* \[1, 2\]"),
        ({value: torch.zeros(32, dtype=torch.bfloat16)}, {}, "bfloat16 is too narrow"),
        ({value: torch.zeros(32, dtype=torch.int64)}, {}, "must be float32 or float64"),
        ({}, {"clasifier.weight": torch.zeros(3, 32)}, r"unknown parameter .* 'classifier\.weight'"),
        ({}, {"classifier.weight": torch.zeros(2, 32)}, r"shape \(2, 32\), but the model's \(3, 32\)"),
        ({}, {f"{value.module}.weight": torch.zeros(32, 32), f"{value.module}.bias": torch.zeros(32)}, ""),
        ({value: torch.zeros(32)}, {f"{value.module}.weight": torch.zeros(32, 32)}, "same module"),
        ({}, {"bert.embeddings.word_embeddings.weight": torch.zeros(128, 32)}, "is a Embedding"),
        ({value: torch.zeros(32, device="meta")}, {}, "is on meta, but the model is on cpu"),
        ({}, {"classifier.bias": torch.zeros(3, device="meta")}, "is on meta, but the model is on cpu"),
    ]
    for deltas, head, message in wrong:
        if not message:
            Bank(model, deltas, head).attach().detach()  # a head may hold any linear layer
            continue
        with pytest.raises(InputError, match=message):
            Bank(model, deltas, head).attach()
    halves = [BiasSite("value", 0, value.module, "bias", a, b, False) for a, b in ((0, 17), (16, 32))]
    with pytest.raises(InputError, match="overlap"):
        Bank(model, draw(halves))
    model.bert.encoder.layer[0].attention.self.value = Quantised(32, 32)
    with pytest.raises(
        InputError, match=r"layer\.0\.attention\.self\.value is a Quantised; .*Linear, Conv1D, LayerNorm"
    ):
        Bank(model, draw(sites))


@pytest.mark.parametrize("family", FAMILIES)
def test_fold_gives_the_banked_logits(tiny, tiny_batch, family):
    model, batch = tiny(family, dtype=torch.float64), tiny_batch()
    sites = find_sites(model, add=True)
    deltas = draw(sites, dtype=torch.float64)
    output = next(name for name in model.state_dict() if name.startswith(("classifi", "score")))
    head = {output: torch.randn_like(model.get_parameter(output))}
    with Bank(model, deltas, head):
        banked = model(**batch).logits
    report = fold(model, deltas, head)
    assert (model(**batch).logits - banked).abs().max() < 1e-12
    assert report.largest == 0.0
    assert set(report.added) == {site.module for site in sites if site.added}
    assert {site.name for site in find_sites(model)} == {site.name for site in sites}
    assert not any(site.added for site in find_sites(model))


@pytest.mark.parametrize("dtype", HALF)
def test_fold_states_the_rounding(tiny, tiny_batch, dtype):
    model, batch = tiny("bert", dtype=dtype), tiny_batch()
    sites = find_sites(model, ["value"])
    deltas = draw(sites)
    exact = {s: model.get_submodule(s.module).bias.detach().double() + d.double() for s, d in deltas.items()}
    with Bank(model, deltas):
        banked = model(**batch).logits
    report = fold(model, deltas)
    assert torch.equal(model(**batch).logits, banked)
    for site in sites:
        written = model.get_submodule(site.module).bias
        assert written.dtype == dtype
        error = (written.detach().double() - exact[site]).abs().max().item()
        assert 0 < report.rounding[site.name] == pytest.approx(error, rel=1e-3)
        assert report.dtype[site.name] == str(dtype).removeprefix("torch.")
    assert report.largest == max(report.rounding.values())


def test_fold_changes_nothing_when_it_fails(tiny):
    model = tiny("bert", dtype=torch.float16)
    deltas = draw(find_sites(model, ["query", "value"]))
    deltas[list(deltas)[-1]] = torch.full((32,), 1e6)
    before = state(model)
    with pytest.raises(BeftError, match=r"not finite in torch\.float16"):
        fold(model, deltas)
    assert state(model) == before
    fine = draw(find_sites(model, ["value"]))
    with Bank(model, fine), pytest.raises(InputError, match="attached already"):
        fold(model, fine)
    assert state(model) == before
