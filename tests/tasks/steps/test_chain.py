"""The steps from raw files to the merge matrix, on two small datasets; their numbers done again by hand."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import load_split, save_split
from beft.errors import InputError
from beft.files import read_json
from beft.inference.predictor import Predictor
from beft.merging.matrix import NONE
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from tasks.pipeline import find_step, input_keys
from tasks.settings import PipelineSettings
from tasks.steps.predictions import WITHOUT_BIASES, read_predictions
from tests.conftest import build_tiny
from tests.support.small_data import DESCRIPTION, small_workspace
from tests.support.tiny_bases import save_base

STEPS = ("fetch", "validate_raw", "prepare", "validate", "probe", "score", "train", "evaluate", "merge")
TRAINING = {"epochs": 2, "learning_rate": 0.02, "batch_size": 8}


def run_steps(root, settings):
    """Every step's folder by its key."""
    folders: dict[str, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in STEPS:
            step = find_step(name)
            for dataset in settings.datasets if step.per_dataset else [None]:
                key = name if dataset is None else f"{name}/{dataset}"
                inputs = {given: folders[other] for given, other in input_keys(step, settings, dataset).items()}
                folders[key] = root / "out" / key
                folders[key].mkdir(parents=True)
                step.function(settings, inputs, folders[key], dataset=dataset)
    return folders


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Every step's folder by its key, and the settings."""
    root = tmp_path_factory.mktemp("chain")
    base = save_base(root / "base", build_tiny("bert"), pooling="mean")
    small_workspace(root)
    # The second dataset has the same texts and the labels the other way round: its adapter pulls the other way.
    turned = DESCRIPTION | {"labels": ["good", "bad"], "metric": "macro_f1"}
    (root / "data" / "datasets" / "turned.yaml").write_text(yaml.safe_dump(turned))
    settings = PipelineSettings.from_mapping(
        {
            "base": {"source": str(base), "threads": 1, "precision": "fp32"},
            "datasets": {"mine": {"size": 60, "max_length": 16}, "turned": {"size": 40, "max_length": 16}},
            "split": {"test_rows": 40, "gate_rows": 40},
            "probe": TRAINING,
            "train": {**TRAINING, "loss": "cross_entropy"},  # dev, which chooses merges, is not trained on
            "evaluate": {"resamples": 200},
            "merge": {
                "methods": ["mean", "task_arithmetic", "ties", "dare", "searched_weights"],
                "scales": [0.25, 0.5, 1.0],
                "densities": [0.2, 0.6],
                "search_budget": 12,
            },
        }
    )
    return run_steps(root, settings), settings, base


def probabilities_of(adapter: Path, base: Path, prepared: Path, split: str = "test"):
    """What the folder of an adapter predicts, through the public way of predicting."""
    rows = load_split(prepared, split)
    found = Predictor(adapter, base=str(base)).predict(rows.texts)
    return np.array([list(one["probabilities"].values()) for one in found]), np.array(rows.labels)


def test_test_metric_is_that_of_the_saved_adapter(chain):
    folders, _, base = chain
    for dataset in ("mine", "turned"):
        evaluation = read_json(folders[f"evaluate/{dataset}"] / "evaluation.json")
        probabilities, labels = probabilities_of(
            folders[f"train/{dataset}"] / "adapter", base, folders[f"prepare/{dataset}"]
        )
        target = evaluation["target"]
        assert target == read_json(folders[f"score/{dataset}"] / "importance.json")["selection"]["target"] != "key"
        accuracy = evaluation["splits"]["test"]["scores"][target]["accuracy"]["value"]
        assert accuracy == pytest.approx((probabilities.argmax(1) == labels).mean())
        stored = read_predictions(folders[f"evaluate/{dataset}"] / "predictions.parquet", target, "test")
        np.testing.assert_allclose(stored, probabilities, atol=1e-5)


def test_gate_decides_on_rows_that_nothing_else_saw(chain):
    folders, _, _ = chain
    texts = {split: set(load_split(folders["prepare/mine"], split).texts) for split in ("train", "dev", "test", "gate")}
    assert not texts["gate"] & (texts["train"] | texts["dev"] | texts["test"])
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert evaluation["decision"]["split"] == "gate"
    assert set(evaluation["splits"]["gate"]["gains"]) == {"head_only", "logistic_regression"}


@pytest.mark.parametrize(("name", "made_by"), [("train", "probe"), ("evaluate", "probe"), ("evaluate", "train")])
def test_what_was_made_with_another_base_is_refused(chain, tmp_path, name, made_by):
    """The files of the base's folder were replaced after the probe, or after the training."""
    folders, settings, _ = chain
    other = save_base(tmp_path / "base", build_tiny("bert", seed=1), pooling="mean")
    replaced = settings.model_copy(update={"base": settings.base.model_copy(update={"source": str(other)})})
    step, current = find_step(name), settings if made_by == "train" else replaced
    inputs = {given: folders[key] for given, key in input_keys(step, settings, "mine").items()}
    if made_by == "train":  # all but the training is of the base of the settings
        inputs["train"] = tmp_path / "train"
        shutil.copytree(folders["train/mine"], inputs["train"])
        replace(Adapter.load(inputs["train"] / "adapter"), base_sha256="0" * 64).save(inputs["train"] / "adapter")
    message = rf"^{made_by} of mine was made with another base than {name} would use now.*dvc repro {name}@mine"
    with pytest.raises(InputError, match=message):
        step.function(current, inputs, tmp_path / "out", dataset="mine")


def test_probe_records_that_the_key_is_inert_and_frozen(chain):
    folders, _, _ = chain
    importance = read_json(folders["score/mine"] / "importance.json")
    assert [term for term, facts in importance["inert"].items() if facts["inert"]] == ["key"]
    before, after = (load_file(folders["probe/mine"] / f"{name}.safetensors") for name in ("before", "after"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if ".self.key." in name}
    assert (folders["score/mine"] / "importance.png").read_bytes().startswith(b"\x89PNG")


def test_mean_is_the_mean_of_the_biases_under_the_datasets_own_head(chain):
    folders, settings, _ = chain
    adapters = {name: Adapter.load(folders[f"train/{name}"] / "adapter") for name in ("mine", "turned")}
    matrix = read_json(folders["merge"] / "merge.json")["matrix"]
    compute = Compute("cpu", "fp32", 1)
    for dataset, own in adapters.items():
        classifier = load_classifier(resolve_base(settings.base.source), own.labels, compute=compute)
        parameters = dict(classifier.model.named_parameters())
        with torch.no_grad():
            for adapter in adapters.values():
                for site, delta in adapter.deltas.items():
                    parameters[f"{site.module}.bias"][site.start : site.stop] += delta / 2
            for name, value in own.head.items():
                parameters[name].copy_(value)
        rows = load_split(folders[f"prepare/{dataset}"], "test")
        cut = partial(classifier.tokenizer, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            hits = [
                int(classifier(dict(cut(text))).argmax()) == label
                for text, label in zip(rows.texts, rows.labels, strict=True)
            ]
        metric = next(iter(matrix[dataset]["scores"]["mean"]))
        if metric == "accuracy":
            assert matrix[dataset]["scores"]["mean"][metric]["value"] == pytest.approx(np.mean(hits))
        merged = Adapter.load(folders["merge"] / "merged" / "mean" / dataset)
        assert all(torch.equal(merged.head[name], value) for name, value in own.head.items())


def test_the_row_without_biases_is_what_the_head_alone_predicts(chain):
    """It comes from the features of the evaluation: here it is computed with the head in the base's own model."""
    folders, settings, _ = chain
    for dataset in ("mine", "turned"):
        own = Adapter.load(folders[f"train/{dataset}"] / "adapter")
        classifier = load_classifier(resolve_base(settings.base.source), own.labels, compute=Compute("cpu", "fp32", 1))
        parameters = dict(classifier.model.named_parameters())
        rows = load_split(folders[f"prepare/{dataset}"], "test")
        with torch.no_grad():
            for name, value in own.head.items():
                parameters[name].copy_(value)
            tokens = classifier.tokenizer(rows.texts, truncation=True, max_length=16, return_tensors="pt", padding=True)
            expected = torch.softmax(classifier(dict(tokens)), -1).numpy()
        found = read_predictions(folders[f"evaluate/{dataset}"] / "predictions.parquet", WITHOUT_BIASES, "test")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        accuracy = float((expected.argmax(-1) == np.array(rows.labels)).mean())
        scores = read_json(folders["merge"] / "merge.json")["matrix"][dataset]["scores"][NONE]
        if "accuracy" in scores:
            assert scores["accuracy"]["value"] == pytest.approx(accuracy)


def test_options_and_weights_are_the_best_on_dev(chain):
    """By the mean of the metrics, each divided by that of the dataset's own adapter."""
    folders, _, base = chain
    found = read_json(folders["merge"] / "merge.json")
    assert {method: len(tried) for method, tried in found["tried"].items()} == {
        "task_arithmetic": 3,
        "ties": 6,
        "dare": 3,
        "searched_weights": 12,
    }
    metrics = {"mine": accuracy_score, "turned": partial(f1_score, average="macro")}

    def on_dev(adapter, dataset):
        probabilities, labels = probabilities_of(adapter, base, folders[f"prepare/{dataset}"], "dev")
        return metrics[dataset](labels, probabilities.argmax(1))

    for method in ("task_arithmetic", "ties", "dare", "searched_weights"):
        recipe = found["recipes"][method]
        [chosen] = [
            one
            for one in found["tried"][method]
            if one["options"] == recipe["options"] and one["weights"] == recipe["weights"]
        ]
        assert chosen["relative"] == max(one["relative"] for one in found["tried"][method])
        values = {name: on_dev(folders["merge"] / "merged" / method / name, name) for name in metrics}
        assert chosen["by_dataset"] == pytest.approx(values)
        own = {name: on_dev(folders[f"train/{name}"] / "adapter", name) for name in metrics}
        assert chosen["relative"] == pytest.approx(np.mean([values[name] / own[name] for name in metrics]))


def test_comparison_is_the_cosine_of_the_deltas(chain):
    folders, _, _ = chain
    first, second = (Adapter.load(folders[f"train/{name}"] / "adapter").deltas for name in ("mine", "turned"))
    sites = sorted({*first, *second})
    one, two = (
        torch.cat([deltas.get(site, torch.zeros(site.width)) for site in sites]).double() for deltas in (first, second)
    )
    [pair] = read_json(folders["merge"] / "merge.json")["comparisons"]
    assert pair["cosine"] == pytest.approx(float(torch.cosine_similarity(one, two, dim=0)), abs=1e-6)


def test_test_and_gate_rows_choose_nothing(chain, tmp_path):
    """Law 9: with every test and gate label turned round, the same term, adapter, epoch and merges are chosen."""
    folders, settings, _ = chain
    again = dict(folders)
    for dataset in settings.datasets:
        turned = tmp_path / "prepare" / dataset
        shutil.copytree(folders[f"prepare/{dataset}"], turned)
        for split in ("test", "gate"):
            rows = load_split(turned, split)
            save_split(turned, split, replace(rows, labels=[1 - label for label in rows.labels]))
        again[f"prepare/{dataset}"] = turned
    for name in ("probe", "score", "train", "evaluate", "merge"):
        step = find_step(name)
        for dataset in settings.datasets if step.per_dataset else [None]:
            key = name if dataset is None else f"{name}/{dataset}"
            inputs = {given: again[other] for given, other in input_keys(step, settings, dataset).items()}
            again[key] = tmp_path / key
            again[key].mkdir(parents=True)
            step.function(settings, inputs, again[key], dataset=dataset)
    for dataset in settings.datasets:
        for file in (f"score/{dataset}/importance.json", f"train/{dataset}/train.json"):
            key, _, name = file.rpartition("/")
            assert read_json(again[key] / name) == read_json(folders[key] / name)
        first, second = (read_json(all_[f"evaluate/{dataset}"] / "evaluation.json") for all_ in (folders, again))
        assert first["tuning"]["head_only"]["learning_rate"] == second["tuning"]["head_only"]["learning_rate"]
        assert first["tuning"]["logistic_regression"]["C"] == second["tuning"]["logistic_regression"]["C"]
        assert first["splits"]["test"] != second["splits"]["test"], "the turned labels were read"
    first, second = (read_json(all_["merge"] / "merge.json") for all_ in (folders, again))
    assert first["tried"] == second["tried"]
    assert first["recipes"] == second["recipes"]


def test_one_dataset_has_nothing_to_merge(chain, tmp_path):
    folders, settings, _ = chain
    alone = settings.model_copy(update={"datasets": {"mine": settings.datasets["mine"]}})
    find_step("merge").function(alone, {"train/mine": folders["train/mine"]}, tmp_path)
    assert "only one dataset" in read_json(tmp_path / "merge.json")["note"]


def test_the_papers_protocol_trains_on_the_whole_sample_and_chooses_nothing(tmp_path):
    """No dev, the last epoch, and BERT's pooler bias with the head; the baselines still choose theirs on dev rows."""
    base = save_base(tmp_path / "base", build_tiny("bert"))
    small_workspace(tmp_path)
    settings = PipelineSettings.from_mapping(
        {
            "protocol": "paper",
            "base": {"source": str(base), "threads": 1, "precision": "fp32"},
            "datasets": {"mine": {"size": 60, "max_length": 16}},
            "split": {"test_rows": 40, "gate_rows": 40},
            "probe": TRAINING,
            "train": TRAINING,
            "evaluate": {"resamples": 200},
        }
    )
    folders = run_steps(tmp_path, settings)
    for step in ("probe", "train"):
        history = read_json(folders[f"{step}/mine"] / "history.json")
        assert [set(epoch) for epoch in history] == [{"epoch", "step", "train_loss"}] * 2
        assert history[0]["step"] == 8, "60 rows in batches of 8: train and dev together"
    assert read_json(folders["probe/mine"] / "probe.json")["frozen_sites"] == []
    adapter = Adapter.load(folders["train/mine"] / "adapter")
    assert "bert.pooler.dense.bias" in adapter.head
    assert adapter.provenance["best_epoch"] == 2
    evaluation = read_json(folders["evaluate/mine"] / "evaluation.json")
    assert set(evaluation["tuning"]) == {"head_only", "logistic_regression"}
    probabilities, labels = probabilities_of(folders["train/mine"] / "adapter", base, folders["prepare/mine"])
    score = evaluation["splits"]["test"]["scores"][evaluation["target"]]["accuracy"]["value"]
    assert score == pytest.approx((probabilities.argmax(1) == labels).mean())
