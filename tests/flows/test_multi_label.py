"""A file whose rows have several labels goes through draft, run and registry to an answer of the server."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from beft.datasets.prepared import load_split, load_summary
from beft.files import read_json
from beft.inference.predictor import Predictor
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.conftest import build_tiny
from tests.support.own_data import beft, own_workspace, serving
from tests.support.tiny_bases import WORDS, save_base

pytestmark = [pytest.mark.server, pytest.mark.slow]
TAGS = ("film", "good", "was")


def write_tickets(path: Path) -> None:
    chooser, rows = random.Random(0), {}
    while len(rows) < 260:
        words = chooser.choices(WORDS, k=6)
        rows.setdefault(" ".join(words), ";".join(tag for tag in TAGS if tag in words))
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("message", "tags"), *rows.items()])


def test_from_a_file_to_a_served_answer(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    write_tickets(tmp_path / "data" / "files" / "tickets.csv")
    own_workspace(tmp_path, base, "tickets", probe_epochs=2, epochs=3)

    drafted = beft(tmp_path, "datasets", "draft", "data/files/tickets.csv")
    assert "shape: multi_label" in drafted and "label_separator: ;" in drafted
    assert "micro_f1" in beft(tmp_path, "run")

    latest = tmp_path / "runs" / "latest"
    adapter = latest / "train" / "tickets" / "adapter"
    record = read_json(adapter / "beft.json")
    assert record["shape"]["name"] == "multi_label" and record["peft"]["opens"] != "no"
    predictor = Predictor(adapter, base=base)
    prepared = latest / "prepare" / "tickets"
    if not prepared.exists():  # DVC keeps it in the workspace
        prepared = tmp_path / "data" / "prepared" / "tickets"
    assert load_summary(prepared)["shape"] == "multi_label"
    test = load_split(prepared, "test")
    answered = predictor.predict(test.texts)
    given = np.array([[label in row["labels"] for label in TAGS] for row in answered])
    truth = np.array([[number in of_row for number in range(3)] for of_row in test.labels])
    found = read_json(latest / "evaluate" / "tickets" / "evaluation.json")
    assert found["metrics"] == ["micro_f1", "multi_label_macro_f1", "subset_accuracy"]
    assert found["baselines"] == ["head_only", "logistic_regression"]
    score = found["splits"]["test"]["scores"][found["target"]]["micro_f1"]
    assert score["value"] == pytest.approx(f1_score(truth, given, average="micro"), abs=0.02)
    assert score["low"] <= score["value"] <= score["high"]
    printed = beft(tmp_path, "predict", str(adapter), test.texts[0], "--base", str(base), "--json")
    assert json.loads(printed.splitlines()[0])["labels"] == answered[0]["labels"]

    connection = connect(PipelineSettings.read(tmp_path / "params.yaml"), tmp_path)
    with serving(connection, base) as client:
        [served] = client.get("/v1/adapters").json()["adapters"]
        assert served["verified"] and served["labels"] == list(TAGS)
        card = connection.client.get_model_version(served["name"], served["version"]).description
        assert "any number of them a text" in card and f"`film` from {served['thresholds'][0]:.2f}" in card
        body = client.post("/invocations", json={"inputs": test.texts[:20]}).json()["predictions"]
    for row, alone in zip(body, answered, strict=False):
        probabilities = [row[f"probability_{label}"] for label in TAGS]
        assert probabilities == pytest.approx(list(alone["probabilities"].values()), abs=1e-4)
        assert row["labels"] == alone["labels"]
