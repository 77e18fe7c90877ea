"""Large bases: read without a second copy, and with layers that are kept on disk; against bases in one place."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import beft.models.loading
from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.bank.inertness import measure_inertness
from beft.errors import InputError
from beft.importance.methods.fisher import fisher_information
from beft.inference.runs import Run
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.settings import DeviceMap
from beft.sites.batch_axis import measure_row_axes, one_axis
from beft.sites.offloading import attached_forward, parameter_value
from beft.sites.site import find_sites, read_bias
from beft.training.engine.activation_checkpointing import activation_checkpointing
from beft.training.engine.cost import saved_bytes
from beft.training.engine.fit import fit
from beft.training_settings import TrainingSettings
from tests.beft.models.test_quantized import batch_of_texts, draw
from tests.support.rows import random_rows
from tests.support.tiny_bases import LABELS, make_adapter, save_base

torch.set_num_threads(1)

FAMILIES = ["bert", "gpt2", "qwen2"]
Tiny = Callable[..., Any]


def load(folder: Path, device_map: DeviceMap = "none", precision: str = "fp32", pooling: str = "model") -> Classifier:
    compute = Compute("cpu", precision, 1, device_map=device_map)
    return load_classifier(resolve_base(str(folder)), LABELS, compute=compute, pooling=pooling)


@pytest.fixture(params=FAMILIES)
def pair(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Classifier, Classifier]:
    """A base in one place, and the same with its layers on disk."""
    folder = save_base(tmp_path / "base", tiny(request.param))
    monkeypatch.setattr(beft.models.loading, "available_bytes", lambda device: 30_000)
    return load(folder), load(folder, "auto")


def test_what_is_kept_on_disk_is_computed_with(pair: tuple[Classifier, Classifier]) -> None:
    whole, spread = pair
    batch = batch_of_texts()
    assert "disk" in spread.model.hf_device_map.values()
    assert sum(parameter.device.type == "meta" for parameter in spread.model.parameters()) > 10
    assert all(spread.model.get_parameter(name).device.type == "cpu" for name in spread.head_parameters("full"))
    assert spread.device == torch.device("cpu")
    before = spread(batch)
    assert torch.equal(before, whole(batch))
    for pooling in ("mean", "cls"):
        assert torch.equal(spread.pooled(batch, pooling), whole.pooled(batch, pooling))
    assert torch.equal(spread.head_features(batch), whole.head_features(batch))
    sites = find_sites(spread.model, add=True)
    for site in sites:
        assert torch.equal(read_bias(spread.model, site), read_bias(whole.model, site))
        module = spread.model.get_submodule(site.module)
        assert torch.equal(parameter_value(module, "weight"), whole.model.get_submodule(site.module).weight)
    one = draw(sites)
    for classifier in pair:
        with Bank(classifier.model, one), activation_checkpointing(classifier.model):
            classifier(batch).square().sum().backward()
    # Both banks added their gradients: half of the sum is that of each.
    with Bank(whole.model, one):
        alone = torch.autograd.grad(whole(batch).square().sum(), list(one.values()))
    for delta, gradient in zip(one.values(), alone, strict=True):
        assert delta.grad is not None and torch.allclose(delta.grad / 2, gradient, rtol=1e-4, atol=1e-6)
    assert torch.equal(spread(batch), before)
    assert not [path for path, module in spread.model.named_modules() if attached_forward(module) is not None]


def test_many_vectors_over_layers_on_disk(pair: tuple[Classifier, Classifier]) -> None:
    whole, spread = pair
    batch, rows = batch_of_texts(), torch.tensor([2, 0, 1, 1, 2])
    deltas = draw(find_sites(spread.model, ["query", "value", "output"], add=True), vectors=3)
    name = spread.head_parameters()[0]
    head = {name: torch.randn(3, *spread.model.get_parameter(name).shape)}
    found = []
    for classifier in (whole, spread):
        modules = {site.module: classifier.model.get_submodule(site.module) for site in deltas}
        measured = measure_row_axes(classifier, modules, batch)
        assert measured is not None
        axes = {path: one_axis(uses) for path, uses in measured.items()}
        bank = Bank(classifier.model, deltas, head, axes=axes)
        with bank:
            found.append(bank.choose(rows) and classifier(batch))
            with pytest.raises(InputError, match="attached already"):
                Bank(classifier.model, deltas, axes=axes).attach()
    assert torch.equal(*found)


def test_the_whole_engine_works_over_layers_on_disk(pair: tuple[Classifier, Classifier]) -> None:
    rows, dev = random_rows(16), random_rows(8, seed=1)
    settings = TrainingSettings(epochs=1, batch_size=8, activation_checkpointing=True)
    deltas: list[list[Tensor]] = []
    scores = []
    inert = []
    for classifier in pair:
        sites = find_sites(classifier.model, ["query", "key", "value"], add=True)
        runs = [Run(f"{seed}", sites, classifier.head_parameters(), seed, settings, "last") for seed in (0, 1)]
        results = fit(classifier, rows, dev, runs, metric=lambda probabilities, labels: 0.0)
        deltas.append([delta for result in results for delta in result.deltas.values()])
        assert all(result.peak_memory > 0 for result in results)
        batches = [(rows.encoded.batch(range(4)), torch.from_numpy(rows.labels[:4]))]
        scores.append(list(fisher_information(classifier, batches, sites).values()))
        inert.append(list(measure_inertness(classifier.model, sites, batch=batch_of_texts()).values()))
        assert saved_bytes(classifier, rows, 4) > 0
    for one, other in zip(*deltas, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    for one, other in zip(*scores, strict=True):
        assert torch.allclose(one, other)
    for one, other in zip(*inert, strict=True):
        assert torch.equal(one, other)


def test_an_adapter_moves_between_bases_in_one_place_and_in_many(
    pair: tuple[Classifier, Classifier], tmp_path: Path
) -> None:
    whole, spread = pair
    add = not [site for site in find_sites(whole.model) if site.term == "value"]
    adapter = make_adapter(spread, add=add)
    adapter.save(tmp_path / "adapter")
    loaded, batch = Adapter.load(tmp_path / "adapter"), batch_of_texts()
    with adapter.attached(spread), loaded.attached(whole):
        assert torch.equal(spread(batch), whole(batch))
    with pytest.raises(InputError, match="spread over devices"):
        adapter.fold(spread, tmp_path / "folded")


def test_a_base_that_fits_is_not_spread(tiny: Tiny, tmp_path: Path) -> None:
    classifier = load(save_base(tmp_path / "base", tiny("bert")), "auto")
    assert getattr(classifier.model, "hf_device_map", None) is None
    assert not [module for module in classifier.model.modules() if hasattr(module, "_hf_hook")]


def test_the_head_is_never_kept_elsewhere(tiny: Tiny) -> None:
    model = tiny("bert")
    places = {"": "disk"}
    assert beft.models.loading.with_head_on_device(model, places) == {
        "bert.embeddings": "disk",
        "bert.encoder": "disk",
        "bert.pooler": "cpu",
        "dropout": "disk",
        "classifier": "cpu",
    }
    places = {"bert.embeddings": 0, "bert.encoder": 1, "bert.pooler": "cpu", "dropout": "disk", "classifier": "disk"}
    assert beft.models.loading.with_head_on_device(model, places) == {
        "bert.embeddings": 0,
        "bert.encoder": 1,
        "bert.pooler": 1,
        "dropout": "disk",
        "classifier": 1,
    }
    assert beft.models.loading.with_head_on_device(model, {"bert": 0, "classifier": 1}) == {"bert": 0, "classifier": 1}


_MEASURE = """
import json, sys, threading, time, torch
from pathlib import Path
from beft.models.base import load_classifier
from beft.models.reference import resolve_base
from beft.models.device import Compute

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

torch.set_num_threads(1)

def loading(folder):
    # Bytes of the model, and of the most memory that loading took.
    before, peak, done = anonymous(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    model = load_classifier(resolve_base(folder), ("a", "b"), compute=Compute("cpu", "bf16", 1)).model
    done.set()
    thread.join()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return size, max(peak[0], anonymous()) - before

first, *others = sys.argv[1:]
loading(first)  # imports
print(json.dumps([loading(folder) for folder in others]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's memory")
def test_a_base_is_read_without_a_second_copy(tiny: Tiny, tmp_path: Path) -> None:
    small = save_base(tmp_path / "small", tiny("bert"))
    large = tiny("bert", hidden_size=512, intermediate_size=8192, num_attention_heads=8)
    wide = save_base(tmp_path / "fp32", large)
    narrow = save_base(tmp_path / "bf16", large.to(torch.bfloat16))
    command = [sys.executable, "-c", _MEASURE, *map(str, (small, wide, narrow))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    (size, of_wide), (_, of_narrow) = json.loads(ended.stdout.splitlines()[-1])
    assert size > 35e6
    # The weights in the precision that is computed in, once; of a file in that precision, the file itself is used.
    assert of_wide < 1.3 * size
    assert of_narrow < 0.5 * size
