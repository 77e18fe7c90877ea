"""Merges over datasets of several shapes: each is measured as its shape is, under its own head, or under none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import PreparedData, Rows, load_split, save_split
from beft.files import write_json
from beft.inference.predictor import Predictor
from beft.merging.adapters import with_merged
from beft.merging.choice import choose_merges
from beft.problems.multi_label import MultiLabel
from beft.settings import Settings
from beft.training.opening import open_session
from beft.training.session import Session
from tests.support.tiny_bases import WORDS, make_adapter, save_base, tiny_tokenizer

torch.set_num_threads(1)

THRESHOLDS = (0.45, 0.6)
PROMPT = {"template": "{text} was", "answers": {"bad": " dull", "good": " fine"}, "answer": " {choice}"}


def prepared(folder: Path, shape: str, metric: str, **facts: Any) -> Path:
    """Thirty dev rows of made-up words."""
    random = np.random.default_rng(len(shape))
    texts = [" ".join(random.choice(WORDS, 5)) for _ in range(30)]
    ids = [str(row) for row in range(30)]
    choices = None
    labels: list[Any] = random.integers(2, size=30).tolist()
    if shape == "regression":
        labels = random.normal(size=30).tolist()
    if shape == "multi_label":
        labels = [[number for number in range(2) if random.random() < 0.5] for _ in texts]
    if shape == "multiple_choice":
        choices = [[str(word) for word in random.choice(WORDS, 3, replace=False)] for _ in texts]
    folder.mkdir(parents=True)
    save_split(folder, "dev", Rows(ids, texts, None, labels, choices))
    write_json(folder / "data.json", {"dataset": shape, "shape": shape, "metric": metric, "labels": [], **facts})
    return folder


def settings_of(base: Path, folders: dict[str, Path]) -> Settings:
    return Settings.from_mapping(
        {
            "base": {"source": str(base), "precision": "fp32", "device": "cpu", "threads": 1},
            "datasets": {name: {"max_length": 24} for name in folders},
            "merge": {"methods": ["ties", "searched_weights"], "scales": [0.5, 1.0], "search_budget": 8},
        }
    )


def chosen(settings: Settings, folders: dict[str, Path], out: Path) -> tuple[dict[str, Any], dict[str, Adapter]]:
    """The choices, and the datasets' own adapters with random biases; the merged ones are saved."""

    def open_dataset(name: str) -> Session:
        return open_session(settings, PreparedData.from_folder(folders[name]))

    adapters = {name: make_adapter(open_dataset(name).classifier) for name in folders}
    if "multi_label" in adapters:
        adapters["multi_label"] = replace(adapters["multi_label"], problem_type=MultiLabel(2, THRESHOLDS))
    choices = choose_merges(settings.merge, adapters, open_dataset)
    for method, choice in choices.items():
        for name in folders:
            with_merged(adapters, name, choice.merged).save(out / method / name)
    return choices, adapters


def test_a_regression_and_a_classification(tiny: Callable[..., Any], tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny("bert"), pooling="mean")
    folders = {
        "classification": prepared(tmp_path / "first", "classification", "accuracy", labels=["bad", "good"]),
        "regression": prepared(tmp_path / "second", "regression", "pearson"),
    }
    choices, adapters = chosen(settings_of(base, folders), folders, tmp_path / "merged")
    for method, choice in choices.items():
        [score] = [one.score for one in choice.trials if one.merged is choice.merged]
        assert score.relative == max(one.score.relative for one in choice.trials)
        for name, metric in (("classification", accuracy_score), ("regression", lambda *both: pearsonr(*both)[0])):
            predicted, rows = predict(tmp_path / "merged" / method / name, base, folders[name])
            truth = np.array(rows.labels)
            values = predicted.argmax(1) if name == "classification" else predicted.ravel()
            assert score.by_dataset[name] == pytest.approx(metric(truth, values), abs=1e-4)
            merged = Adapter.load(tmp_path / "merged" / method / name)
            assert all(torch.equal(merged.head[key], value) for key, value in adapters[name].head.items())


def test_several_labels_a_row_are_measured_at_the_thresholds_of_their_own_head(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    base = save_base(tmp_path / "base", tiny("bert"), pooling="mean")
    folders = {
        "classification": prepared(tmp_path / "first", "classification", "accuracy", labels=["bad", "good"]),
        "multi_label": prepared(tmp_path / "second", "multi_label", "micro_f1", labels=["a", "b"]),
    }
    choices, _ = chosen(settings_of(base, folders), folders, tmp_path / "merged")
    for method, choice in choices.items():
        [score] = [one.score for one in choice.trials if one.merged is choice.merged]
        folder = tmp_path / "merged" / method / "multi_label"
        rows = load_split(folders["multi_label"], "dev")
        answered = Predictor(folder, base=base).predict(rows.texts)
        given = np.array([[row["probabilities"][label] for label in "ab"] for row in answered]) >= THRESHOLDS
        truth = np.array([[number in of_row for number in range(2)] for of_row in rows.labels])
        assert score.by_dataset["multi_label"] == pytest.approx(f1_score(truth, given, average="micro"), abs=1e-4)


def test_a_decoder_ranks_answers_and_choices_without_a_head(tiny: Callable[..., Any], tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny("qwen2", causal=True).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    folders = {
        "classification": prepared(
            tmp_path / "first", "classification", "accuracy", labels=["bad", "good"], prompt=PROMPT
        ),
        "multiple_choice": prepared(tmp_path / "second", "multiple_choice", "accuracy", prompt=PROMPT),
    }
    choices, adapters = chosen(settings_of(base, folders), folders, tmp_path / "merged")
    assert not any(adapter.head for adapter in adapters.values())
    for method, choice in choices.items():
        [score] = [one.score for one in choice.trials if one.merged is choice.merged]
        for name, folder in folders.items():
            predicted, rows = predict(tmp_path / "merged" / method / name, base, folder)
            assert score.by_dataset[name] == pytest.approx(accuracy_score(rows.labels, predicted.argmax(1)))


def predict(folder: Path, base: Path, data: Path) -> tuple[Any, Rows]:
    """What a saved adapter predicts for the dev rows."""
    rows = load_split(data, "dev")
    return np.asarray(Predictor(folder, base=base).answer(rows.texts, choices=rows.choices).predicted), rows
