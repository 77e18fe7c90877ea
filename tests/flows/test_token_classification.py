"""A CoNLL file goes through draft, run and registry to spans of the MLflow model and of the server."""

import random
from pathlib import Path

import pytest

from beft.datasets.drafting.draft import draft_description
from beft.datasets.prepared import load_split
from beft.files import read_json, write_text
from beft.inference.predictor import Predictor
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.conftest import build_tiny
from tests.support.own_data import beft, own_workspace, predict_registered, serving
from tests.support.tiny_bases import WORDS, save_base

pytestmark = [pytest.mark.server, pytest.mark.slow]
TAGS = {"film": "B-thing", "story": "I-thing", "good": "B-praise", "fine": "B-praise"}


def write_reports(path: Path) -> None:
    chooser, rows = random.Random(0), {}
    while len(rows) < 260:
        words = chooser.choices(WORDS, k=6)
        rows.setdefault(" ".join(words), "".join(f"{word}\t{TAGS.get(word, 'O')}\n" for word in words))
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(rows.values()))


def test_from_a_file_to_a_registered_model(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", build_tiny("bert"))
    write_reports(tmp_path / "data" / "files" / "reports.txt")
    own_workspace(tmp_path, base, "reports", probe_epochs=1, epochs=2)

    drafted = draft_description(tmp_path / "data" / "files" / "reports.txt", tmp_path).to_yaml([])
    write_text(tmp_path / "data" / "datasets" / "reports.yaml", drafted)
    assert "shape: token_classification" in drafted and "format: conll" in drafted
    assert "entities begin with I-, as IOB1 writes them" in drafted
    assert "entity_f1" in beft(tmp_path, "run")

    latest = tmp_path / "runs" / "latest"
    adapter = latest / "train" / "reports" / "adapter"
    record = read_json(adapter / "beft.json")
    assert record["shape"] == {"name": "token_classification", "labels": 2, "words": "spaces"}
    assert record["peft"]["opens"] == "whole"
    predictor = Predictor(adapter, base=base)
    test = load_split(tmp_path / "data" / "prepared" / "reports", "test")
    answered = predictor.predict(test.texts)
    found = read_json(latest / "evaluate" / "reports" / "evaluation.json")
    assert found["metrics"] == ["entity_f1", "entity_precision", "entity_recall"]
    assert found["baselines"] == ["head_only", "logistic_regression"]
    score = found["splits"]["test"]["scores"][found["target"]]["entity_f1"]
    assert score["low"] <= score["value"] <= score["high"] and score["value"] > 0.7

    connection = connect(PipelineSettings.read(tmp_path / "params.yaml"), tmp_path)
    [registered] = connection.client.search_registered_models()
    [version] = connection.client.search_model_versions(f"name='{registered.name}'")
    assert "Labels of spans of the text: `praise`, `thing`" in version.description
    rows = [{"text": text} for text in test.texts[:20]]
    predicted, columns = predict_registered(connection, f"models:/{registered.name}/{version.version}", base, rows)
    assert [row["spans"] for row in predicted] == [row["spans"] for row in answered[:20]]
    assert columns == ["spans"]

    with serving(connection, base) as client:
        [served] = client.get("/v1/adapters").json()["adapters"]
        assert served["verified"] and served["problem_type"] == "token_classification"
        body = client.post("/invocations", json={"inputs": test.texts[:20]}).json()["predictions"]
    for row, alone in zip(body, answered, strict=False):
        assert [{**span, "score": 0} for span in row["spans"]] == [{**span, "score": 0} for span in alone["spans"]]
