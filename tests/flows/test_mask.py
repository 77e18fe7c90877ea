"""Pairs of texts with a prompt: from a file, over a base with its masked-language-model head, to served answers."""

import csv
import random
from pathlib import Path

import pytest
import yaml

from beft.datasets.prepared import load_split
from beft.files import read_json, write_text
from beft.inference.predictor import Predictor
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.beft.models.test_mask_head import save_masked
from tests.support.own_data import beft, own_workspace, predict_registered, serving
from tests.support.tiny_bases import WORDS

pytestmark = [pytest.mark.server, pytest.mark.slow]

DESCRIPTION = {
    "title": "Made-up pairs",
    "version": 1,
    "source": {"kind": "files", "train": "data/files/pairs.csv"},
    "columns": {"text": "first", "text_pair": "second", "label": "label"},
    "labels": ["other", "same"],
    "metric": "accuracy",
}


def write_pairs(path: Path) -> None:
    chooser, rows = random.Random(0), []
    for number in range(300):
        first = " ".join(chooser.choices(WORDS, k=5))
        second = first if number % 2 else " ".join(chooser.choices(WORDS, k=5))
        rows.append((first, second, "same" if number % 2 else "other"))
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("first", "second", "label"), *rows])


def test_from_a_file_to_served_answers(tmp_path: Path) -> None:
    base = save_masked(tmp_path / "base", "bert")
    write_pairs(tmp_path / "data" / "files" / "pairs.csv")
    write_text(tmp_path / "data" / "datasets" / "pairs.yaml", yaml.safe_dump(DESCRIPTION))
    own_workspace(tmp_path, base, "pairs", probe_epochs=1, epochs=2)
    settings = yaml.safe_load((tmp_path / "params.yaml").read_text())
    settings["head"] = {"pooling": "mask", "label_words": {"same": "fine", "other": "dull"}}
    write_text(tmp_path / "params.yaml", yaml.safe_dump(settings))
    assert "accuracy" in beft(tmp_path, "run")

    adapter = tmp_path / "runs" / "latest" / "train" / "pairs" / "adapter"
    record = read_json(adapter / "beft.json")
    assert record["pooling"] == "mask" and record["peft"]["opens"] == "bias"
    assert record["provenance"]["training"]["loss"] == "cross_entropy"
    test = load_split(tmp_path / "data" / "prepared" / "pairs", "test")
    assert test.pairs is not None
    rows = [{"text": text, "text_pair": pair} for text, pair in zip(test.texts[:20], test.pairs[:20], strict=True)]
    alone = [
        row["probabilities"]["same"] for row in Predictor(adapter, base=base).predict(test.texts[:20], test.pairs[:20])
    ]

    connection = connect(PipelineSettings.read(tmp_path / "params.yaml"), tmp_path)
    [registered] = connection.client.search_registered_models()
    answers, _ = predict_registered(connection, f"models:/{registered.name}/1", base, rows)
    assert [row["probability_same"] for row in answers] == pytest.approx(alone, abs=1e-6)
    with serving(connection, base) as client:
        [served] = client.get("/v1/adapters").json()["adapters"]
        assert served["verified"]
        answered = client.post("/invocations", json={"dataframe_records": rows}).json()
    assert [row["probability_same"] for row in answered["predictions"]] == pytest.approx(alone, abs=1e-5)
