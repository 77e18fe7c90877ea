"""What is said of raw data that is not as expected is followed to the letter, and then it is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from tasks.settings import PipelineSettings
from tasks.steps.validate import validate
from tasks.steps.validate_raw import validate_raw
from tasks.validation.expectations import ExpectationsFailed
from tests.beft.datasets.small import SPLIT, describe, fetched, texts, write_jsonl

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


def separated(root: Path, name: str, last: str) -> Path:
    """The raw folder of a file of fields; ``last`` is what its last line has for a text."""
    mark = "\t" if name.endswith(".tsv") else ","
    lines = [f"sentence {n} film{mark}{('bad', 'good')[n % 2]}" for n in range(60)]
    (root / name).write_text("\n".join([f"sentence{mark}mood", *lines, f"{last}{mark}good"]) + "\n")
    fetch_source(describe(root, source={"kind": "files", "train": name}), root / "raw", root)
    return root / "raw"


def own_line(root: Path, **line: Any) -> None:
    path = root / "data" / "expectations" / "own.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"raw": [line]}))


@pytest.mark.parametrize(
    ("name", "last", "advised"),
    [
        ("rows.csv", '"open' + "\n" * 300 + '"', True),
        ("rows.csv", "long " * 100, False),
        ("rows.csv", "1", False),
        ("rows.tsv", "long " * 100, False),
    ],
)
def test_quotation_marks_are_blamed_only_for_texts_that_take_in_lines(
    name: str, last: str, advised: bool, workspace: Path
) -> None:
    expected = "expect_column_value_lengths_to_be_between"
    own_line(workspace, expectation=expected, columns=["text"], min_value=2, max_value=200)
    with pytest.raises(ExpectationsFailed, match=expected) as raised:
        validate_raw(SETTINGS, {"fetch": separated(workspace, name, last)}, workspace / "out", dataset="own")
    assert ("never closed" in str(raised.value)) is advised


@pytest.mark.parametrize(
    "line",
    [
        {"expectation": "expect_table_row_count_to_be_between", "max_value": 50},
        {"expectation": "expect_column_values_to_be_in_set", "columns": ["text"], "value_set": ["fine"]},
        {"expectation": "expect_column_values_to_be_in_set", "columns": ["category"], "value_set": ["bad"]},
        {
            "expectation": "expect_column_distinct_values_to_contain_set",
            "columns": ["label_name"],
            "splits": ["train"],
            "value_set": ["bad", "awful"],
        },
        {
            "expectation": "expect_column_kl_divergence_to_be_less_than",
            "columns": ["label_name"],
            "partition_object": {"values": ["bad", "good"], "weights": [0.9, 0.1]},
            "threshold": 0.1,
        },
        {
            "expectation": "expect_column_kl_divergence_to_be_less_than",
            "columns": ["mood"],
            "partition_object": {"values": ["bad", "good"], "weights": [0.9, 0.1]},
            "threshold": 0.1,
        },
    ],
)
def test_ones_own_expectations_get_no_advice_that_is_about_the_general_ones(
    line: dict[str, Any], workspace: Path
) -> None:
    own_line(workspace, **line)
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": fetched(workspace, texts(120))}, workspace / "out", dataset="own")
    assert raised.value.failures
    assert not any("advice" in failure for failure in raised.value.failures)
    if "partition_object" in line:
        assert "threshold=0.1" in str(raised.value)


def test_advice_is_sought_only_where_something_failed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_arguments: Any) -> dict[str, str]:
        raise AssertionError("nothing failed")

    monkeypatch.setattr("tasks.steps.validate_raw.raw_advice", found)
    assert validate_raw(SETTINGS, {"fetch": fetched(workspace, texts(120))}, workspace / "out", dataset="own")


def test_an_undeclared_label_of_several_is_named_with_those_that_are(workspace: Path) -> None:
    rows = [{"sentence": f"sentence {n}", "animals": "c;d" if n % 2 else "c" if n % 3 else ""} for n in range(200)]
    sets: dict[str, Any] = {
        "shape": "multi_label",
        "columns": {"text": "sentence", "labels": "animals"},
        "label_separator": ";",
        "labels": ["c", "d"],
    }
    raw = fetched(workspace, rows, **sets)
    assert validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")["rows"] == 200
    out = workspace / "prepared"
    out.mkdir()
    prepare_source(raw, out, size="all", settings=SPLIT)
    (workspace / "docs").mkdir()
    assert validate(SETTINGS, {"prepare": out}, workspace / "docs", dataset="own")["rows"] == 200
    table = parquet.read_table(out / "train.parquet")
    broken = pa.array([[0, 7], *table["labels"].to_pylist()[1:]], pa.list_(pa.int32()))
    position = table.column_names.index("labels")
    parquet.write_table(table.set_column(position, "labels", broken), out / "train.parquet")
    with pytest.raises(ExpectationsFailed, match="undeclared_labels"):
        validate(SETTINGS, {"prepare": out}, workspace / "docs", dataset="own")

    rows[5]["animals"] = "c;bird"
    (workspace / "again").mkdir()
    raw = fetched(workspace / "again", rows, **sets)
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "again", dataset="own")
    told = str(raised.value)
    assert "bird" in told and "rows.jsonl line 6" in told and "its labels are [c, d]" in told


def test_a_wrong_span_is_named_with_its_row(workspace: Path) -> None:
    rows = [{"text": f"Ada {n}", "marks": [[0, 3, "person"]] if n % 2 else []} for n in range(200)]
    spans: dict[str, Any] = {
        "shape": "token_classification",
        "columns": {"text": "text", "spans": "marks"},
        "labels": ["person"],
    }
    raw = fetched(workspace, rows, **spans)
    assert validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")["rows"] == 200
    out = workspace / "prepared"
    out.mkdir()
    prepare_source(raw, out, size="all", settings=SPLIT)
    (workspace / "docs").mkdir()
    assert validate(SETTINGS, {"prepare": out}, workspace / "docs", dataset="own")["rows"] == 200
    table = parquet.read_table(out / "train.parquet")
    broken = pa.array([[[0, 3, 7]], *table["spans"].to_pylist()[1:]], pa.list_(pa.list_(pa.int32())))
    parquet.write_table(table.set_column(table.column_names.index("spans"), "spans", broken), out / "train.parquet")
    with pytest.raises(ExpectationsFailed, match="wrong_spans"):
        validate(SETTINGS, {"prepare": out}, workspace / "docs", dataset="own")

    rows[5]["marks"] = [[0, 99, "person"]]
    (workspace / "again").mkdir()
    raw = fetched(workspace / "again", rows, **spans)
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "again", dataset="own")
    told = str(raised.value)
    assert "lies outside of the text" in told and "rows.jsonl line 6" in told
