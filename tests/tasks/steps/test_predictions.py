"""Predictions on disk: probabilities, values, texts and spans come back as they were written."""

from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from beft.errors import InputError
from beft.metrics.spans import Span
from beft.metrics.truth import Truth
from tasks.steps.predictions import read_predictions, write_predictions

IDS = {"test": ["a", "b", "c"], "gate": ["d"]}


def test_probabilities_come_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    test, gate = np.array([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]]), np.array([[0.1, 0.9]])
    truth = {"test": np.array([1, 1, 0]), "gate": np.array([0])}
    write_predictions(path, IDS, truth, {"value": {"test": test, "gate": gate}, "head_only": {"gate": 1 - gate}})
    assert np.array_equal(read_predictions(path, "value", "test"), test)
    assert np.array_equal(read_predictions(path, "head_only", "gate"), 1 - gate)
    table = parquet.read_table(path)
    assert table.column_names == ["method", "split", "id", "label", "predicted", "probabilities"]
    assert table["predicted"].to_pylist() == [1, 0, 0, 1, 0]
    with pytest.raises(InputError, match="no predictions of 'head_only' on split 'test'"):
        read_predictions(path, "head_only", "test")


def test_values_come_back(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    truth = {"test": Truth(values=[0.0, 2.5, 5.0]), "gate": Truth(values=[1.0])}
    test = np.array([0.25, 2.0, 1 / 3])
    write_predictions(path, IDS, truth, {"value": {"test": test, "gate": np.array([2.0])}})
    assert np.array_equal(read_predictions(path, "value", "test"), test)
    assert parquet.read_table(path)["value"].to_pylist() == [0.0, 2.5, 5.0, 1.0]


def test_texts_come_back_with_answers_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    truth = {
        "test": Truth(answers=[["x"], ["y", "z"], ["ü"]], groups=["p", "p", "q"]),
        "gate": Truth(answers=[["w"]], groups=["r"]),
    }
    write_predictions(path, IDS, truth, {"value": {"test": ["x", "", "ü\nv"], "gate": ["w"]}})
    assert read_predictions(path, "value", "test") == ["x", "", "ü\nv"]
    table = parquet.read_table(path)
    assert table.column_names == ["method", "split", "id", "answers", "group", "predicted"]
    assert table["answers"].to_pylist()[1] == ["y", "z"]


def test_labels_of_groups_keep_their_groups(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    truth = {"gate": Truth(labels=np.array([1]), groups=["q"])}
    write_predictions(path, IDS, truth, {"value": {"gate": np.array([[0.4, 0.6]])}})
    assert parquet.read_table(path).to_pylist() == [
        {
            "method": "value",
            "split": "gate",
            "id": "d",
            "label": 1,
            "group": "q",
            "predicted": 1,
            "probabilities": [0.4, 0.6],
        }
    ]


def test_spans_come_back_though_no_row_has_any(tmp_path: Path) -> None:
    truth = {"test": Truth(spans=[[(0, 4, 1)], []])}
    found = [[Span(0, 4, 1, 0.75), Span(5, 9, 0, 0.5)], []]
    write_predictions(
        tmp_path / "a.parquet", {"test": ["x", "y"]}, truth, {"a": {"test": found}, "none": {"test": [[], []]}}
    )
    assert read_predictions(tmp_path / "a.parquet", "a", "test") == found
    assert read_predictions(tmp_path / "a.parquet", "none", "test") == [[], []]
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert table[0]["spans"] == [{"start": 0, "end": 4, "label": 1, "score": None}]
