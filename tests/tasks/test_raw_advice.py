"""What is said of raw data that is not as expected is followed to the letter, and then it is."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.datasets.loaders import fetch_source
from tasks.expectations import ExpectationsFailed
from tasks.settings import PipelineSettings
from tasks.validate_raw import validate_raw
from tests.beft.datasets.small import describe, fetched, texts, write_jsonl

SETTINGS = PipelineSettings()


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def balanced_otherwise(bad: int, good: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of which so many are bad and good."""
    return [row | {"mood": "bad" if number < bad else "good"} for number, row in enumerate(texts(bad + good, start))]


def test_labels_out_of_balance_are_told_with_the_shares_to_declare(workspace: Path) -> None:
    raw = fetched(workspace, balanced_otherwise(117, 3))
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    told = str(raised.value)
    assert "if that is right, declare shares: {bad: 0.975, good: 0.025}" in told
    assert "threshold" not in told and "partition_object" not in told
    shares = yaml.safe_load(told.partition("declare shares: ")[2].partition("\n")[0])
    (workspace / "declared").mkdir()
    raw = fetched(workspace / "declared", balanced_otherwise(117, 3), shares=shares)
    assert validate_raw(SETTINGS, {"fetch": raw}, workspace / "declared", dataset="own")["rows"] == 120


def test_a_test_split_with_other_shares_is_told_how_to_allow_it(workspace: Path) -> None:
    write_jsonl(workspace / "rows.jsonl", balanced_otherwise(20, 2000))
    write_jsonl(workspace / "held.jsonl", balanced_otherwise(30, 0, start=5000))
    description = describe(
        workspace,
        source={"kind": "files", "train": "rows.jsonl", "test": "held.jsonl"},
        shares={"bad": 0.01, "good": 0.99},
    )
    fetch_source(description, workspace / "raw", workspace)
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": workspace / "raw"}, workspace / "out", dataset="own")
    said = str(raised.value).partition("write to data/expectations/own.yaml: ")[2].partition("\n")[0]
    own = workspace / "data" / "expectations" / "own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(said)
    assert validate_raw(SETTINGS, {"fetch": workspace / "raw"}, workspace / "out", dataset="own")["rows"] == 2050


def test_a_label_without_rows_and_few_rows_are_told_what_to_do(workspace: Path) -> None:
    raw = fetched(workspace, texts(12), labels=["bad", "good", "none"], shares={"bad": 0.4, "good": 0.4, "none": 0.2})
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    assert "no row has the label 'none': take it out of labels, or bring such rows" in str(raised.value)
    assert "these are too few rows: bring more" in str(raised.value)


@pytest.mark.parametrize("labels", [51, 60, 120])
def test_many_labels_of_the_same_size_are_as_expected(labels: int, workspace: Path) -> None:
    rows = [{"sentence": f"text {n}", "mood": f"label {n % labels}"} for n in range(10 * labels)]
    raw = fetched(workspace, rows, labels=[f"label {n}" for n in range(labels)])
    assert validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")["rows"] == 10 * labels


def test_advice_is_sought_only_where_something_failed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_arguments: Any) -> dict[str, str]:
        raise AssertionError("nothing failed")

    monkeypatch.setattr("tasks.validate_raw.raw_advice", found)
    assert validate_raw(SETTINGS, {"fetch": fetched(workspace, texts(120))}, workspace / "out", dataset="own")
