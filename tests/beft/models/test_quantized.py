"""Quantised bases against plain models that hold the weights which the quantised ones stand for."""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import beft.bank.inertness
from beft.adapters.adapter import Adapter
from beft.adapters.folding import fold
from beft.bank.bank import Bank
from beft.bank.inertness import inert_terms, measure_inertness
from beft.comparison.baselines.ia3 import IA3
from beft.comparison.baselines.ln_tuning import LNTuning
from beft.comparison.baselines.lora import Lora
from beft.comparison.baselines.vera import Vera
from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.files import read_json, write_json
from beft.importance.methods.fisher import fisher_information
from beft.inference.features import predict_probabilities
from beft.inference.predictor import Predictor
from beft.inference.runs import Run, RunResult
from beft.merging.adapters import with_merged
from beft.merging.comparison import compare_all
from beft.merging.merged import merge
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute, resolve_compute
from beft.models.quantized import quantized_layers
from beft.models.reference import resolve_base
from beft.settings import BaseSettings, Quantization
from beft.sites.batch_axis import measure_row_axes, one_axis
from beft.sites.site import BiasSite, find_sites
from beft.training.engine.cost import saved_bytes
from beft.training.engine.fit import fit
from beft.training.engine.weights import fit_weights
from beft.training_settings import TrainingSettings
from tests.beft.adapters.test_record import as_format_1
from tests.support.rows import random_rows
from tests.support.tiny_bases import LABELS, TEXTS, make_adapter, save_base, tiny_tokenizer

torch.set_num_threads(1)

WIDTHS: list[Quantization] = ["int8", "int4"]
FAMILIES = ["bert", "gpt2", "qwen2", "gpt_neox"]
Tiny = Callable[..., Any]


def load(folder: Path, quantization: Quantization, precision: str = "fp32") -> Classifier:
    return load_classifier(resolve_base(str(folder)), LABELS, compute=Compute("cpu", precision, 1, quantization))


def batch_of_texts() -> dict[str, Tensor]:
    encoded = tiny_tokenizer()(list(TEXTS), padding=True, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def stood_for(layer: Any) -> Tensor:
    """The weight of a quantised layer by the library itself, [outputs, inputs]."""
    import bitsandbytes.functional as bnb

    if layer.weight.dtype == torch.int8:
        exact = layer.weight.double() * (layer.scale / 127).unsqueeze(1)
        assert torch.allclose(bnb.int8_vectorwise_dequant(layer.weight.data, layer.scale).double(), exact, atol=1e-6)
        return exact
    return bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state)


def plain(classifier: Classifier) -> Classifier:
    """The classifier, in its own type, with an ``nn.Linear`` in the place of each quantised layer."""
    model = copy.deepcopy(classifier.model)
    for path in quantized_layers(model):
        layer = model.get_submodule(path)
        linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, dtype=model.dtype)
        with torch.no_grad():
            linear.weight.copy_(stood_for(layer))
            if layer.bias is not None:
                linear.bias.copy_(layer.bias)
        model.set_submodule(path, linear)
    return classifier.with_model(model)


def wide(classifier: Classifier) -> Classifier:
    """The quantised classifier, with all else in fp64."""
    for tensor in (*classifier.model.parameters(), *classifier.model.buffers()):
        if tensor.is_floating_point() and tensor.dim() and tensor.dtype != torch.float64:
            tensor.data = tensor.data.double()
    return classifier


def draw(sites: tuple[BiasSite, ...], *, vectors: int | None = None, seed: int = 0) -> dict[BiasSite, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = () if vectors is None else (vectors,)
    return {
        site: (torch.randn(*shape, site.width, generator=generator, dtype=torch.float64) * 0.3).requires_grad_()
        for site in sites
    }


@pytest.mark.parametrize("quantization", WIDTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_base_computes_with_the_weights_that_it_stands_for(
    family: str, quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    classifier = wide(load(save_base(tmp_path / "base", tiny(family)), quantization))
    layers = quantized_layers(classifier.model)
    assert len(layers) >= 8
    assert not [path for path in layers if "pooler" in path or path.startswith(("classifier", "score"))]
    batch, reference = batch_of_texts(), plain(classifier)
    deltas = draw(find_sites(classifier.model, add=True))
    labels = torch.tensor([0, 2, 1, 0, 1])
    before = classifier(batch)
    assert (before - reference(batch)).abs().max() < 1e-12
    with Bank(reference.model, deltas):
        expected = reference(batch)
        functional.cross_entropy(expected, labels).backward()
    gradients = {site: delta.grad for site, delta in deltas.items()}
    for delta in deltas.values():
        delta.grad = None
    with Bank(classifier.model, deltas):
        banked = classifier(batch)
        functional.cross_entropy(banked, labels).backward()
    assert (banked - expected).abs().max() < 1e-12
    assert (banked - before).abs().max() > 1e-2
    for site, delta in deltas.items():
        assert delta.grad is not None and gradients[site] is not None
        assert (delta.grad - gradients[site]).abs().max() < 1e-12, site.name
    assert torch.equal(classifier(batch), before)  # detached


@pytest.mark.parametrize("quantization", WIDTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_has_its_own_vector_behind_a_quantised_base(
    family: str, quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    classifier = wide(load(save_base(tmp_path / "base", tiny(family)), quantization))
    model, batch = classifier.model, batch_of_texts()
    deltas = draw(find_sites(model, ["query", "value", "output"], add=True), vectors=3)
    modules = {site.module: model.get_submodule(site.module) for site in deltas}
    measured = measure_row_axes(classifier, modules, batch)
    assert measured is not None
    axes = {name: one_axis(uses) for name, uses in measured.items()}
    rows = torch.tensor([2, 0, 1, 1, 2])
    with Bank(model, deltas, axes=axes) as bank:
        mixed = bank.choose(rows) and classifier(batch)
    for row, vector in enumerate(rows):
        with Bank(model, {site: delta[vector] for site, delta in deltas.items()}):
            assert (classifier(batch)[row] - mixed[row]).abs().max() < 1e-12


@pytest.mark.parametrize("quantization", WIDTHS)
def test_rows_do_not_reach_each_other_in_any_mode(quantization: Quantization, tiny: Tiny, tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), quantization, "bf16")
    layer = classifier.model.get_submodule(quantized_layers(classifier.model)[0])
    rows = torch.randn(4, 5, 32, dtype=torch.bfloat16)
    loud = rows.clone()
    loud[1:] *= 100  # outliers, which bitsandbytes' own layers would leave out for all rows
    assert torch.equal(layer(rows)[0], layer(loud)[0])
    assert torch.equal(layer(rows), layer.train()(rows))


@pytest.mark.parametrize("quantization", WIDTHS)
def test_neither_an_input_nor_a_wide_weight_is_kept(quantization: Quantization, tiny: Tiny, tmp_path: Path) -> None:
    layer = load(save_base(tmp_path / "base", tiny("bert")), quantization).model.bert.encoder.layer[0].output.dense
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = layer(torch.randn(2, 3, layer.in_features, requires_grad=True))
    assert not kept, kept
    context = output.grad_fn.next_functions[0][0]  # behind the bias
    assert not [value for value in vars(context).values() if isinstance(value, Tensor)]
    output.sum().backward()


@pytest.mark.parametrize("quantization", WIDTHS)
def test_runs_are_trained_scored_and_measured_over_a_quantised_base(
    quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), quantization)
    reference = plain(classifier)
    weights = {path: stood_for(classifier.model.get_submodule(path)) for path in quantized_layers(classifier.model)}
    rows, dev = random_rows(24), random_rows(12, seed=1)
    settings = TrainingSettings(epochs=2, batch_size=8)
    results = {}
    for one in (classifier, reference):
        runs = [
            Run(term, find_sites(one.model, [term]), one.head_parameters(), 0, settings, "last")
            for term in ("value", "query")
        ]
        results[one] = fit(one, rows, dev, runs, metric=lambda probabilities, labels: 0.0)
    for quantised, expected in zip(results[classifier], results[reference], strict=True):
        for site, delta in quantised.deltas.items():
            assert delta.abs().max() > 1e-3
            assert (delta - expected.deltas[site]).abs().max() < 2e-3
        assert quantised.peak_memory > 0
    for path, weight in weights.items():
        assert torch.equal(stood_for(classifier.model.get_submodule(path)), weight)
    batches = [(rows.encoded.batch(range(6)), torch.from_numpy(rows.labels[:6]))]
    sites = find_sites(classifier.model, ["query", "value", "output"])
    information, exact = (fisher_information(one, batches, sites) for one in (classifier, reference))
    for site in sites:
        assert (information[site] - exact[site]).abs().max() <= 1e-4 * exact[site].max()
    cost, plain_cost = (saved_bytes(one, rows, 4) for one in (classifier, reference))
    assert 0.5 * plain_cost < cost <= plain_cost


@pytest.mark.parametrize("quantization", WIDTHS)
def test_peft_s_layers_are_trained_over_a_quantised_base_and_leave_it(
    quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), quantization)
    modules = dict(classifier.model.named_modules())
    rows = random_rows(24, labels=len(LABELS))
    for method in (Lora(2), IA3(), LNTuning(), Vera(4)):
        run = Run("run", (), classifier.head_parameters(), 0, TrainingSettings(epochs=1, batch_size=8), "last")
        result = fit_weights(classifier, rows, None, run, method, metric=lambda *_: 0.0, progress=lambda _: None)
        start = method.start(classifier, (), rows.encoded.batch([0]), 0)
        assert isinstance(result, RunResult) and result.weights is not None
        assert any(
            bool((value - start.values[path]).abs().max() > 1e-3) for path, value in result.weights.values.items()
        )
        assert dict(classifier.model.named_modules()) == modules


@pytest.mark.parametrize("exact", [True, False], ids=["fp64", "fp32"])
@pytest.mark.parametrize("quantization", ["none", *WIDTHS])
@pytest.mark.parametrize(("family", "inert"), [("bert", True), ("qwen2", False)])
def test_inertness_is_measured_on_a_narrow_base_without_a_wide_copy(
    family: str,
    inert: bool,
    quantization: Quantization,
    exact: bool,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not exact:
        monkeypatch.setattr(beft.bank.inertness, "FP64_PARAMETERS", 0)
    classifier = load(save_base(tmp_path / "base", tiny(family)), quantization, "bf16")
    model = classifier.model
    before = classifier(batch_of_texts())
    sites = find_sites(model, ["query", "key", "value"], add=True)
    measured = measure_inertness(
        model, sites, batch=batch_of_texts(), logits=lambda twin, batch: classifier.with_model(twin)(batch)
    )
    assert inert_terms(measured) == {"query": False, "key": inert, "value": False}
    assert torch.equal(classifier(batch_of_texts()), before)
    twin = beft.bank.inertness._copy_as(model, torch.float64 if exact else torch.float32)
    shared = [a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True)]
    assert any(shared) == (quantization != "none" or not exact)


def test_a_quantised_base_is_not_folded(tiny: Tiny, tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), "int8")
    adapter = make_adapter(classifier)
    with pytest.raises(InputError, match=r"cannot be folded.*base\.quantization: none"):
        fold(classifier.model, adapter.deltas)
    for over in (classifier, load(tmp_path / "base", "none")):
        with pytest.raises(InputError, match="over an int8 quantised base cannot be folded"):
            adapter.fold(over, tmp_path / "folded")
    assert not (tmp_path / "folded").exists()
    before = classifier(batch_of_texts())
    with adapter.attached(classifier):
        assert not torch.equal(classifier(batch_of_texts()), before)
    assert torch.equal(classifier(batch_of_texts()), before)


@pytest.mark.parametrize("quantization", WIDTHS)
def test_an_adapter_is_predicted_with_over_the_base_that_it_was_trained_over(
    quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    classifier = load(folder, quantization)
    adapter = make_adapter(classifier)
    adapter.save(tmp_path / "adapter")
    with adapter.bank(classifier):
        expected = predict_probabilities(classifier, encode(tiny_tokenizer(), TEXTS, max_length=24))
    found = Predictor(tmp_path / "adapter", base=folder).answer(TEXTS).probabilities
    assert torch.equal(found, expected)
    compute = {"compute": Compute("cpu", "fp32", 1, quantization).to_json()}
    adapter.save(tmp_path / "first")
    of_format_1 = as_format_1(tmp_path / "first", **compute)
    assert torch.equal(Predictor(of_format_1, base=folder).answer(TEXTS).probabilities, expected)
    replace(adapter, quantization="none").save(tmp_path / "plain")
    over_plain = Predictor(tmp_path / "plain", base=folder).answer(TEXTS).probabilities
    assert not torch.allclose(over_plain, expected, atol=1e-4), "a base that is not quantised predicts otherwise"


def test_an_adapter_is_attached_to_no_base_that_was_quantised_otherwise(tiny: Tiny, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    classifiers = {quantization: load(folder, quantization) for quantization in ("none", "int8", "int4")}
    for quantization, classifier in classifiers.items():
        adapter = make_adapter(classifier)
        assert adapter.quantization == quantization
        adapter.save(tmp_path / quantization)
        compute = Compute("cpu", "fp32", 1, quantization).to_json()
        loaded = [
            Adapter.load(tmp_path / quantization),
            Adapter.load(as_format_1(tmp_path / quantization, compute=compute)),
        ]
        for one in (adapter, *loaded):
            for other, over in classifiers.items():
                if other == quantization:
                    one.bank(over)
                    continue
                with pytest.raises(InputError, match=f"load it with base.quantization: {quantization}"):
                    one.bank(over)


def test_adapters_of_differently_quantised_bases_are_not_put_together(tiny: Tiny, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    plain, narrow = (make_adapter(load(folder, quantization)) for quantization in ("none", "int4"))
    both = {"first": plain, "second": narrow}
    message = "differently quantised bases.*first was trained over a plain base, second over an int4 quantised one"
    with pytest.raises(InputError, match=message):
        merge("mean", both)
    with pytest.raises(InputError, match=message):
        compare_all(both)
    with pytest.raises(InputError, match="differently quantised bases"):
        plain.with_deltas(plain.deltas, others=[narrow])
    unknown = replace(plain, quantization=None)  # as a record of format 1 may leave it
    merged = merge("mean", {"first": unknown, "second": narrow})
    assert with_merged({"first": narrow, "second": unknown}, "first", merged).quantization == "int4"


@pytest.mark.parametrize("quantization", WIDTHS)
def test_a_base_that_is_quantised_already_is_taken_as_it_is(
    quantization: Quantization, tiny: Tiny, tmp_path: Path
) -> None:
    from transformers import AutoModel, BitsAndBytesConfig

    source = save_base(tmp_path / "base", tiny("bert"))
    options: Any = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True}
    model = AutoModel.from_pretrained(source, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32)
    stored = tmp_path / "stored"
    model.save_pretrained(stored)
    tiny_tokenizer().save_pretrained(stored)
    classifier = load(stored, "none")
    reference = plain(classifier)
    assert (classifier(batch_of_texts()) - reference(batch_of_texts())).abs().max() < 1e-5
    assert type(classifier.model.classifier) is nn.Linear
    assert classifier.newly_initialized == ("classifier.bias", "classifier.weight")
    assert load(stored, quantization).model.num_parameters() == classifier.model.num_parameters()
    with pytest.raises(InputError, match=f"quantised to {quantization} already"):
        load(stored, "int4" if quantization == "int8" else "int8")
    adapter = make_adapter(classifier)
    assert adapter.quantization == quantization
    for asked in ("none", quantization):  # what was asked for is all that format 1 noted
        adapter.save(tmp_path / "adapter")
        noted = Compute("cpu", "fp32", 1, asked).to_json()
        loaded = [Adapter.load(tmp_path / "adapter"), Adapter.load(as_format_1(tmp_path / "adapter", compute=noted))]
        for one in loaded:
            one.bank(classifier)
        merge("mean", {"new": adapter, "old": loaded[1]})
        Predictor(tmp_path / "adapter", base=stored, device="cpu").predict(TEXTS)
    path = quantized_layers(classifier.model)[0]
    with pytest.raises(InputError, match=r"head bert\..*: it is quantised"):
        Bank(classifier.model, {}, {f"{path}.bias": torch.zeros(32)})


def test_what_cannot_be_quantised_is_refused(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base(tmp_path / "base", tiny("bert"))
    with pytest.raises(InputError, match="fp64: use fp32, bf16 or auto"):
        load(folder, "int4", "fp64")
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(InputError, match=r"quantised by 'gptq'.*base\.quantization int8 or int4"):
        load(folder, "none")
    write_json(folder / "config.json", config)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(InputError, match=r"needs bitsandbytes, .*pip install 'beft\[quantization\]'"):
        load(folder, "int8")
    assert not quantized_layers(load(folder, "none").model)


def test_quantisation_and_places_are_stored_with_what_was_computed() -> None:
    settings = BaseSettings(device="cpu", precision="fp32", quantization="int4", device_map="auto")
    stored = resolve_compute(settings).to_json()
    assert stored == {
        "device": "cpu",
        "precision": "fp32",
        "threads": 2,
        "quantization": "int4",
        "device_map": "auto",
    }
    assert set(resolve_compute(BaseSettings(device="cpu", precision="fp32")).to_json()) == {
        "device",
        "precision",
        "threads",
    }
