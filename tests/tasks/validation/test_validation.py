"""Both validations: good data passes; every kind of damage is found, with expectation, column and rows; no network."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from beft.datasets.description import DatasetError
from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.reading.parquet import read_table, write_table
from beft.files import read_json
from beft.settings import SplitSettings
from tasks.settings import PipelineSettings
from tasks.steps.validate import validate
from tasks.steps.validate_raw import validate_raw
from tasks.validation.expectations import ExpectationsFailed
from tests.beft.datasets.small import describe, fetched, prepared, texts, write_jsonl
from tests.beft.datasets.test_shapes import CHOICE, GENERATION, GROUPED, RECORD, REGRESSION, requested, scored

SETTINGS = PipelineSettings()


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without a network."""

    def connect(*arguments: Any) -> None:
        raise AssertionError(f"a connection was tried: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    return tmp_path


def failures(error: ExpectationsFailed) -> dict[tuple[str, str | None, str | None], dict[str, Any]]:
    """The failures by expectation, column and split."""
    return {(one["expectation"], one["column"], one["split"]): dict(one) for one in error.failures}


def damage(path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the rows of a JSON Lines file."""
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def damage_table(path: Path, **columns: list[Any] | None) -> None:
    """Change columns of a Parquet file, or take them away."""
    table = read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.remove_column(at) if values is None else table.set_column(at, name, pa.array(values))
    write_table(path, table)


def test_good_raw_data_passes_and_leaves_data_docs(workspace: Path) -> None:
    rows = [row | {"split": "a column of the source that is named like one of ours"} for row in texts(60)]
    raw = fetched(workspace, rows)
    summary = validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    assert summary == {"rows": 60, "expectations": 11}
    validation = read_json(workspace / "out" / "validation.json")
    assert validation["success"]
    page = (workspace / "out" / "data_docs" / "index.html").read_text()
    assert "own raw" in page
    pages = list((workspace / "out" / "data_docs" / "validations").rglob("*.html"))
    assert len(pages) == 1
    assert "sentence" in pages[0].read_text()
    assert not (workspace / "runs").exists()


def test_columns_that_nobody_names_may_hold_anything(workspace: Path) -> None:
    odd = ["\ud83d", {"a": ["\ud83d"]}, ["b"], 5, None]
    raw = fetched(
        workspace, [row | {"other": odd[n % 5], "\ud83d": "x", "(line)": 1} for n, row in enumerate(texts(60))]
    )
    assert validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")["rows"] == 60


def test_lists_and_objects_are_no_texts(workspace: Path) -> None:
    raw = fetched(workspace, [*texts(60), {"sentence": {"a": 1}, "mood": "bad"}, {"sentence": ["a"], "mood": "bad"}])
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    found = failures(raised.value)["expect_column_values_to_be_of_type", "sentence", None]
    assert [row["line"] for row in found["rows"]] == [61, 62]


def test_damaged_raw_data_fails_with_its_rows(workspace: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[2]["sentence"] = None
        rows[4]["sentence"] = " <br /> "
        rows[6]["sentence"] = 17
        rows[8]["sentence"] = "x" * 100_001
        rows[10]["mood"] = "god"
        rows[11]["mood"] = None
        return rows

    raw = fetched(workspace, texts(60))
    damage(raw / "train" / "rows.jsonl", change)
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    found = failures(raised.value)
    rows_of = {name: [row["line"] for row in one["rows"]] for name, one in found.items()}
    assert rows_of == {
        ("expect_column_values_to_not_be_null", "sentence", None): [3],
        ("expect_column_values_to_match_regex", "sentence", None): [5],
        ("expect_column_values_to_be_of_type", "sentence", None): [7],
        ("expect_column_value_lengths_to_be_between", "sentence", None): [9],
        ("expect_column_values_to_be_in_set", "mood", None): [11],
        ("expect_column_values_to_not_be_null", "mood", None): [12],
    }
    told = str(raised.value)
    assert "dataset 'own': its raw data fails 6 of 11 expectations" in told
    assert "expect_column_values_to_be_in_set, column 'mood': 1 of 60 rows: rows.jsonl line 11 ('god')" in told
    assert raised.value.exit_status == 2
    assert not read_json(workspace / "runs" / "failed" / "raw-own" / "validation.json")["success"]
    assert (workspace / "runs" / "failed" / "raw-own" / "data_docs" / "index.html").is_file()


def test_a_raw_column_that_is_gone_and_labels_out_of_balance(workspace: Path) -> None:
    raw = fetched(workspace, texts(60))
    damage(raw / "train" / "rows.jsonl", lambda rows: [{"phrase": row["sentence"], "mood": "bad"} for row in rows])
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    found = failures(raised.value)
    assert set(found) == {
        ("expect_column_to_exist", "sentence", None),
        ("expect_column_distinct_values_to_contain_set", "mood (name)", "train"),
        ("expect_column_kl_divergence_to_be_less_than", "mood (name)", None),
    }
    divergence = found["expect_column_kl_divergence_to_be_less_than", "mood (name)", None]["observed"]
    assert divergence == pytest.approx(0.6931, abs=1e-3)  # ln 2: one label against even shares
    assert "expect_column_to_exist, column 'sentence': there is no such column" in str(raised.value)


def test_expectations_that_great_expectations_does_not_know(workspace: Path) -> None:
    raw = fetched(workspace, texts(60))
    own = workspace / "data" / "expectations" / "own.yaml"
    own.parent.mkdir()
    lines = [
        {"expectation": "expect_colum_to_exist", "columns": ["text"]},
        {"expectation": "expect_table_row_count_to_equal"},
    ]
    own.write_text(yaml.safe_dump({"raw": lines}))
    with pytest.raises(DatasetError) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    assert "unknown expectation 'expect_colum_to_exist'. Did you mean 'expect_column_to_exist'?" in str(raised.value)
    assert len(raised.value.problems) == 2


def test_two_expectations_of_a_kind_about_a_column_are_both_checked(workspace: Path) -> None:
    raw = fetched(workspace, texts(60))
    own = workspace / "data" / "expectations" / "own.yaml"
    own.parent.mkdir()
    kind = "expect_column_values_to_not_match_regex"
    lines = [{"expectation": kind, "columns": ["text"], "regex": regex} for regex in ("number 7 ", "nowhere")]
    own.write_text(yaml.safe_dump({"raw": lines}))
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    (failure,) = raised.value.failures
    assert (failure["arguments"], failure["unexpected"]) == ({"regex": "number 7 "}, 1)
    assert [row["line"] for row in failure["rows"]] == [8]


def test_good_prepared_data_passes(workspace: Path) -> None:
    folder = prepared(workspace, texts(200))
    summary = validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    assert summary == {"rows": 140, "expectations": 25}


def test_damaged_prepared_data_fails_with_its_rows(workspace: Path) -> None:
    folder = prepared(workspace, texts(200))
    train, dev, test = (read_table(folder / f"{name}.parquet").to_pydict() for name in ("train", "dev", "test"))
    damage_table(
        folder / "train.parquet",
        id=[test["id"][0], *train["id"][1:]],
        text=[train["text"][0], test["text"][1].upper(), train["text"][2], f" {train['text'][2]}", *train["text"][4:]],
        label=pa.array([7, *train["label"][1:]], pa.int32()),
    )
    damage_table(folder / "gate.parquet", label=pa.array([0] * 40, pa.int32()))
    damage_table(folder / "dev.parquet", text=[" <br/>", *dev["text"][1:]])
    write_table(folder / "test.parquet", read_table(folder / "test.parquet").slice(0, 30))
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    found = failures(raised.value)
    rows_of = {name: sorted((row["split"], row["id"]) for row in one.get("rows", [])) for name, one in found.items()}
    assert rows_of.pop(("expect_table_row_count_to_be_between", None, "test")) == []
    assert rows_of.pop(("expect_column_kl_divergence_to_be_less_than", "label", "gate")) == []
    rows_of.pop(("expect_column_kl_divergence_to_be_less_than", "label", "test"), None)  # 30 of 40 rows
    rows_of.pop(("expect_column_kl_divergence_to_be_less_than", "label", "train"), None)  # a label that is none
    twice = test["id"][0]
    assert rows_of == {
        ("expect_column_values_to_be_unique", "id", None): [("test", twice), ("train", twice)],
        ("expect_column_values_to_be_in_set", "label", None): [("train", twice)],
        ("expect_column_values_to_match_regex", "text", None): [("dev", dev["id"][0])],
        ("expect_column_values_to_be_in_set", "splits_with_text", None): [
            ("test", test["id"][1]),
            ("train", train["id"][1]),
        ],
        ("expect_column_values_to_be_in_set", "copies_in_split", "train"): sorted(
            ("train", one) for one in train["id"][2:4]
        ),
    }
    told = str(raised.value)
    assert f"train {twice} (7)" in told
    assert "expect_table_row_count_to_be_between, test: observed 30, expected min_value=38, max_value=40" in told


def test_prepared_columns_of_another_kind(workspace: Path) -> None:
    folder = prepared(workspace, texts(200))
    rows = read_table(folder / "gate.parquet").to_pydict()
    damage_table(folder / "gate.parquet", label=[str(label) for label in rows["label"]], id=None)
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    found = failures(raised.value)
    assert ("expect_column_to_exist", "id", None) in found
    assert found["expect_column_values_to_be_of_type", "label", None]["unexpected"] == 40
    assert not any(column == "id" and name != "expect_column_to_exist" for name, column, _ in found)


def test_an_own_evaluation_split_is_checked_beside_train(workspace: Path) -> None:
    write_jsonl(workspace / "rows.jsonl", texts(60))
    write_jsonl(workspace / "held.jsonl", [{"sentence": "held", "mood": "bad"}, *texts(30, start=70)])
    description = describe(workspace, source={"kind": "files", "train": "rows.jsonl", "test": "held.jsonl"})
    fetch_source(description, workspace / "raw", workspace)
    damage(workspace / "raw" / "test" / "held.jsonl", lambda rows: [rows[0] | {"mood": "odd"}, *rows[1:]])
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": workspace / "raw"}, workspace / "out", dataset="own")
    assert set(failures(raised.value)) == {("expect_column_values_to_be_in_set", "mood", "test")}
    assert "column 'mood', test: 1 of 31 rows: held.jsonl line 1 ('odd')" in str(raised.value)


def answered(count: int) -> list[dict[str, Any]]:
    """Rows with a question and two right answers."""
    return [
        {"sentence": f"sentence {n}", "question": "which?", "answers": [f"{n}", f"no. {n}"], "entities": ["a", "b"]}
        for n in range(count)
    ]


def of_entities(count: int) -> list[dict[str, Any]]:
    """Rows with a list of choices, of which one is right."""
    return [{"sentence": f"sentence {n}", "entities": ["a", "b", "c"], "right": ["b"]} for n in range(count)]


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        (scored(200), {**REGRESSION, "label_range": None}),
        (requested(200), CHOICE),
        (answered(200), GENERATION),
    ],
)
def test_good_data_of_every_shape_passes(rows: list[dict[str, Any]], changes: dict[str, Any], workspace: Path) -> None:
    folder = prepared(workspace, rows, **changes)
    (workspace / "raw_out").mkdir()
    raw = validate_raw(SETTINGS, {"fetch": workspace / "raw"}, workspace / "raw_out", dataset="own")
    assert raw["rows"] == len(rows)
    assert validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")["expectations"] > 12


@pytest.mark.parametrize(
    ("rows", "changes", "damaged", "found"),
    [
        (scored(60), REGRESSION, {2: {"score": "5.5"}, 4: {"score": "high"}, 6: {"score": None}},
         {("expect_column_values_to_be_between", "(number)"): [3],
          ("expect_column_values_to_not_be_null", "(number)"): [5, 7],
          ("expect_column_values_to_not_be_null", "score"): [7]}),
        (requested(60), CHOICE, {2: {"right": 2}, 4: {"first": None}},
         {("expect_column_values_to_be_between", "(right_choices)"): [3],
          ("expect_column_values_to_be_between", "(choices_count)"): [5]}),
        (of_entities(60), RECORD, {2: {"right": ["x"]}, 4: {"entities": "a"}, 6: {"right": []}},
         {("expect_column_values_to_be_between", "(right_choices)"): [3, 5, 7],
          ("expect_column_values_to_be_between", "(choices_count)"): [5],
          ("expect_column_values_to_be_between", "(answers_count)"): [7],
          ("expect_column_values_to_be_between", "(shortest_answer)"): [7]}),
        (answered(60), GENERATION, {2: {"answers": [" "]}, 4: {"answers": None}},
         {("expect_column_values_to_be_between", "(shortest_answer)"): [3, 5],
          ("expect_column_values_to_be_between", "(answers_count)"): [5],
          ("expect_column_values_to_not_be_null", "answers"): [5]}),
    ],
)  # fmt: skip
def test_damaged_raw_data_of_every_shape(
    rows: list[dict[str, Any]],
    changes: dict[str, Any],
    damaged: dict[int, dict[str, Any]],
    found: dict[tuple[str, str], list[int]],
    workspace: Path,
) -> None:
    raw = fetched(workspace, rows, **changes)
    damage(raw / "train" / "rows.jsonl", lambda all_rows: [row | damaged.get(n, {}) for n, row in enumerate(all_rows)])
    with pytest.raises(ExpectationsFailed) as raised:
        validate_raw(SETTINGS, {"fetch": raw}, workspace / "out", dataset="own")
    told = {name[:2]: [row["line"] for row in one["rows"]] for name, one in failures(raised.value).items()}
    assert told == found


def test_damaged_prepared_values_and_choices(workspace: Path) -> None:
    (workspace / "values").mkdir()
    folder = prepared(workspace / "values", scored(200), **REGRESSION)
    labels = read_table(folder / "dev.parquet")["label"].to_pylist()
    damage_table(folder / "dev.parquet", label=[5.5, *labels[1:]])
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    assert [name for name, *_ in failures(raised.value)] == ["expect_column_values_to_be_between"]

    (workspace / "choices").mkdir()
    folder = prepared(workspace / "choices", of_entities(200), **RECORD)
    gate = read_table(folder / "gate.parquet").to_pydict()
    damage_table(
        folder / "gate.parquet",
        label=pa.array([3, -1, *gate["label"][2:]], pa.int32()),
        choices=[*gate["choices"][:2], ["b"], *gate["choices"][3:]],
        answers=[*gate["answers"][:3], [], *gate["answers"][4:]],
    )
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    told = {name[1]: [row["id"] for row in one["rows"]] for name, one in failures(raised.value).items()}
    assert told == {
        "label": [gate["id"][1]],
        "choices_behind": [gate["id"][0], gate["id"][2]],
        "choices_count": [gate["id"][2]],
        "answers_count": [gate["id"][3]],
        "shortest_answer": [gate["id"][3]],
    }


def test_a_group_in_two_splits_fails(workspace: Path) -> None:
    folder = prepared(workspace, [row | {"question": n // 4} for n, row in enumerate(texts(240))], **GROUPED)
    train, test = (read_table(folder / f"{name}.parquet").to_pydict() for name in ("train", "test"))
    damage_table(folder / "train.parquet", group=[test["group"][0], *train["group"][1:]])
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    told = failures(raised.value)
    assert set(told) == {("expect_column_values_to_be_in_set", "splits_with_group", None)}
    torn = [("test", one) for one, group in zip(test["id"], test["group"], strict=True) if group == test["group"][0]]
    rows = told["expect_column_values_to_be_in_set", "splits_with_group", None]["rows"]
    assert sorted((row["split"], row["id"]) for row in rows) == sorted([*torn, ("train", train["id"][0])])


def annotated(count: int, copies: int) -> list[dict[str, Any]]:
    """Rows whose texts each stand there several times."""
    return [row for row in texts(count) for _ in range(copies)]


def divided(root: Path, rows: list[dict[str, Any]], *, size: int | str, asked: SplitSettings, **changes: Any) -> Path:
    """The prepared folder of rows that are divided as asked."""
    raw, out = fetched(root, rows, **changes), root / "prepared"
    out.mkdir()
    prepare_source(raw, out, size=size, settings=asked)
    return out


SKEWED = [row for number, row in enumerate(texts(400)) for _ in range(10 if number % 10 == 0 else 1)]
"""Half of the rows are copies of forty texts, all of one label."""
QUESTIONS = [row | {"question": number // (3 if number < 90 else 50)} for number, row in enumerate(texts(600))]
"""Thirty questions of three rows, and ten of fifty."""


@pytest.mark.parametrize(
    ("rows", "size", "asked", "changes"),
    [
        (annotated(120, 3), "all", SplitSettings(test_rows=20, gate_rows=20), {}),
        (annotated(120, 7), "all", SplitSettings(test_rows=40, gate_rows=20), {}),
        (SKEWED, "all", SplitSettings(test_rows=200, gate_rows=60), {}),
        (texts(200), 60, SplitSettings(test_rows=40, gate_rows=0), {}),
        (QUESTIONS, 60, SplitSettings(test_rows=20, gate_rows=0), GROUPED),
    ],
)
def test_what_prepare_makes_is_as_expected(
    rows: list[dict[str, Any]], size: int | str, asked: SplitSettings, changes: dict[str, Any], workspace: Path
) -> None:
    folder = divided(workspace, rows, size=size, asked=asked, **changes)
    assert validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")["expectations"] > 12


def test_a_label_that_is_too_frequent_in_dev_is_found(workspace: Path) -> None:
    folder = divided(workspace, texts(400), size=200, asked=SplitSettings(test_rows=40, gate_rows=40))
    labels = read_table(folder / "dev.parquet")["label"].to_pylist()
    damage_table(folder / "dev.parquet", label=pa.array([0] * 30 + labels[30:], pa.int32()))
    with pytest.raises(ExpectationsFailed) as raised:
        validate(SETTINGS, {"prepare": folder}, workspace / "out", dataset="own")
    assert set(failures(raised.value)) == {("expect_column_kl_divergence_to_be_less_than", "label", "dev")}
