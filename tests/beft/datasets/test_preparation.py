"""From raw files to splits: the schema, the cleaning, the reports, and what is said of data that cannot be used."""

import random
from pathlib import Path
from typing import Any

import pytest

from beft.datasets.description import DatasetError
from beft.datasets.normalisation import text_key
from beft.datasets.preparation import prepare_source
from beft.datasets.prepared import SPLITS, load_split, load_summary
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.registry import find_dataset
from beft.errors import InputError
from beft.files import sha256_file, sha256_json
from beft.settings import SplitSettings
from tests.beft.datasets.small import SPLIT, describe, fetched, prepared, texts, write_jsonl
from tests.beft.datasets.test_shapes import GROUPED

ROTTEN_TOMATOES = {"train": 800, "dev": 200, "gate": 1000, "test": 1000}
IMDB = {"train": 240, "dev": 60, "gate": 1000, "test": 1000}


def test_splits_have_the_rows_of_the_source(tmp_path: Path) -> None:
    rows = texts(200)
    folder = prepared(tmp_path, rows)
    truth = {row["sentence"]: ["bad", "good"].index(row["mood"]) for row in rows}
    splits = {name: load_split(folder, name) for name in ("train", "dev", "gate", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 45, "dev": 15, "gate": 40, "test": 40}
    for split in splits.values():
        assert split.pairs is None
        assert [truth[text] for text in split.texts] == split.labels
        assert split.ids == [text_key(text) for text in split.texts]
    ids = [one for split in splits.values() for one in split.ids]
    assert len(set(ids)) == len(ids)
    summary = load_summary(folder)
    assert summary["rows"] == {"train": 45, "dev": 15, "gate": 40, "test": 40}
    assert summary["balance"]["test"] == {"bad": 20, "good": 20}
    assert summary["dropped"] == {"duplicates": 0, "conflicts": 0, "seen_in_test": 0, "unused": 60}
    assert (summary["labels"], summary["version"], summary["metric"]) == (["bad", "good"], 1, "accuracy")


def test_columns_that_are_kept_go_with_their_rows_and_change_nothing_else(tmp_path: Path) -> None:
    rows = [row | {"domain": number % 3, "seen": None} for number, row in enumerate(texts(200))]
    domains = {row["sentence"]: str(row["domain"]) for row in rows}
    for name in ("kept", "plain", "unread"):
        (tmp_path / name).mkdir()
    columns = {"text": "sentence", "label": "mood"}
    kept = prepared(tmp_path / "kept", rows, columns={**columns, "keep": ["domain", "seen"]})
    plain = prepared(tmp_path / "plain", rows)
    for split in ("train", "dev", "gate", "test"):
        found, without = load_split(kept, split), load_split(plain, split)
        assert found.kept == {"domain": [domains[text] for text in found.texts], "seen": [""] * len(found)}
        assert found.select([1, 0]).kept["domain"] == found.kept["domain"][1::-1]
        assert without.kept == {}
        assert (found.ids, found.texts, found.labels) == (without.ids, without.texts, without.labels)
    assert (kept / "data.json").read_bytes() == (plain / "data.json").read_bytes()
    with pytest.raises(DatasetError, match="Did you mean 'domain'"):
        prepared(tmp_path, rows, columns={**columns, "keep": ["domian"]})
    with pytest.raises(DatasetError, match="keep: name each column once"):
        prepared(tmp_path / "unread", rows, columns={**columns, "keep": ["label"]})


def test_the_order_of_the_raw_rows_changes_no_byte(tmp_path: Path) -> None:
    again = {"sentence": "Sentence  NUMBER 7 of many", "mood": "good"}
    rows = [*texts(200), again, {"sentence": "torn", "mood": "good"}, {"sentence": "torn", "mood": "bad"}]
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    hashes = []
    for name, order in (("one", rows), ("two", shuffled), ("three", rows[::-1])):
        (tmp_path / name).mkdir()
        folder = prepared(tmp_path / name, order)
        hashes.append({path.name: sha256_file(path) for path in folder.glob("*.parquet")})
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(hashes[0]) == 4


def test_duplicates_leave_all_but_test_and_torn_texts_are_reported(tmp_path: Path) -> None:
    rows = texts(200)
    copies = [row | {"sentence": f"  {row['sentence'].upper()}<br />"} for row in rows]
    torn = [{"sentence": "it depends", "mood": mood} for mood in ("good", "bad", "good")]
    folder = prepared(tmp_path, rows + copies + torn, size=40)
    splits = {name: load_split(folder, name) for name in ("train", "dev", "gate", "test")}
    keys = {name: [text_key(text) for text in split.texts] for name, split in splits.items()}
    for name in ("train", "dev", "gate"):
        assert len(set(keys[name])) == len(keys[name])
    in_test = [key for key in keys["test"] if key != text_key("it depends")]
    assert len(in_test) == 2 * len(set(in_test))  # both copies, each under an id of its own
    assert len(set(splits["test"].ids)) == len(splits["test"])
    summary = load_summary(folder)
    assert summary["conflicts"] == {
        "texts": 1,
        "rows": 3,
        "examples": [{"text": "it depends", "text_pair": None, "labels": {"bad": 1, "good": 2}}],
    }
    assert sum(summary["rows"].values()) + sum(summary["dropped"].values()) == summary["raw_rows"] == 403


def test_an_own_evaluation_split_is_test(tmp_path: Path) -> None:
    held = [*texts(30, start=150), {"sentence": "sentence number 160 of many", "mood": "bad"}]
    write_jsonl(tmp_path / "rows.jsonl", texts(200))
    write_jsonl(tmp_path / "held.jsonl", held)
    description = describe(tmp_path, source={"kind": "files", "train": "rows.jsonl", "test": "held.jsonl"})
    fetch_source(description, tmp_path / "raw", tmp_path)
    (tmp_path / "prepared").mkdir()
    summary = prepare_source(tmp_path / "raw", tmp_path / "prepared", size="all", settings=SPLIT)
    test = load_split(tmp_path / "prepared", "test")
    assert sorted(test.texts) == sorted(row["sentence"] for row in held)
    learnt = {text for name in ("train", "dev", "gate") for text in load_split(tmp_path / "prepared", name).texts}
    assert learnt == {row["sentence"] for row in texts(150)} | {row["sentence"] for row in texts(20, start=180)}
    assert (summary["own_test"], summary["dropped"]["seen_in_test"]) == (True, 30)


def test_pairs_are_the_same_only_together(tmp_path: Path) -> None:
    rows = [row | {"reply": f"reply {n % 3}"} for n, row in enumerate(texts(200))]
    rows += [rows[5] | {"reply": "another"}, rows[6] | {"reply": " Reply   0"}]
    columns = {"text": "sentence", "text_pair": "reply", "label": "mood"}
    folder = prepared(tmp_path, rows, size="all", columns=columns)
    splits = [load_split(folder, name) for name in ("train", "dev", "gate", "test")]
    assert all(split.pairs is not None and len(split.pairs) == len(split) for split in splits)
    summary = load_summary(folder)
    in_test = splits[3].texts.count(rows[6]["sentence"])  # the copy is of row 6 only: row 5 has another reply
    assert summary["dropped"]["duplicates"] == (0 if in_test else 1)
    assert summary["text_pairs"]


def test_label_values_are_mapped_and_marks_replaced(tmp_path: Path) -> None:
    rows = [{"sentence": f"line {n}<br /><br />end", "mood": [1.0, "2", 4][n % 3]} for n in range(150)]
    folder = prepared(tmp_path, rows, labels={"low": [1, 2], "high": 4}, replace={"<br />": " "})
    train = load_split(folder, "train")
    assert all(text.endswith("  end") and "<" not in text for text in train.texts)
    assert [int(text.split()[1]) % 3 == 2 for text in train.texts] == [label == 1 for label in train.labels]


@pytest.mark.parametrize(
    ("rows", "changes", "told"),
    [
        (texts(200), {"columns": {"text": "sentense", "label": "mood"}},
         ["rows.jsonl: unknown column 'sentense'. Did you mean 'sentence'?"]),
        ([], {}, ["rows.jsonl is empty"]),
        (texts(200), {"source": {"kind": "files", "train": "rows.jsonl", "where": {"mood": "odd"}}},
         ["its train data has no rows with {'mood': 'odd'}"]),
        ([row | {"mood": "good"} for row in texts(200)], {}, ["every row of its train data has the label 'good'"]),
        ([*texts(200), *({"sentence": f"s{mood}", "mood": mood} for mood in ("god", None, "god"))], {},
         ["'god' is none of the labels bad (bad), good (good); it stands in 2 lines: 201, 203", "nothing is none of"]),
        ([row | {"mood": str(row["mood"] == "good")} for row in texts(200)], {"labels": {"bad": False, "good": True}},
         ["'True' is none of the labels false (bad), true (good)"]),  # as pandas writes them to CSV
        ([*texts(200), {"sentence": " <br />", "mood": "bad"}, {"sentence": 7, "mood": "x"}, {"mood": "bad"}],
         {}, ["blank in 2 lines: 201, 203", "no text in line 202", "'x' is none of the labels"]),
        (texts(200), {"labels": ["bad", "good", "none"]}, ["train (45 rows) has no row with the label 'none'"]),
    ],
)  # fmt: skip
def test_what_is_said_of_data_that_cannot_be_used(
    rows: list[dict[str, Any]], changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError) as raised:
        prepared(tmp_path, rows, **changes)
    assert raised.value.exit_status == 2
    assert [part for part in told if part not in str(raised.value)] == []
    assert not any((tmp_path / "prepared").iterdir())


def test_lines_that_ragged_leaves_out_or_cuts_are_counted(tmp_path: Path) -> None:
    rows = [f"{row['mood']}\t{row['sentence']}" for row in texts(200)]
    for at in (8, 18, 49, 60, 70, 80):
        rows[at] = "pos"
    rows[100] += "\tmore"
    (tmp_path / "rows.tsv").write_text("\n".join(["mood\tsentence", *rows]) + "\n")
    source = {"kind": "files", "train": "rows.tsv", "ragged": True}
    raw, out = tmp_path / "raw", tmp_path / "out"
    out.mkdir()
    fetch_source(describe(tmp_path, source=source), raw, tmp_path)
    summary = prepare_source(raw, out, size=40, settings=SPLIT)
    assert (summary["raw_rows"], summary["dropped"]["short_lines"]) == (194, 6)
    lines = {"short": 6, "short_lines": [10, 20, 51, 62, 72], "cut": 1, "cut_lines": [102]}
    assert summary["ragged"] == {"train/rows.tsv": lines}

    rows[30] = "odd\ttext"
    (tmp_path / "rows.tsv").write_text("\n".join(["mood\tsentence", *rows]) + "\n")
    fetch_source(describe(tmp_path, source=source), raw, tmp_path)
    with pytest.raises(DatasetError, match=r"rows.tsv, column 'mood': 'odd' is none .* it stands in line 32"):
        prepare_source(raw, out, size=40, settings=SPLIT)


def test_a_sample_larger_than_the_data(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"the sample \(500 rows\) need 540 rows.* 160 are left.*set datasets.own.size to all"
    ):
        prepared(tmp_path, texts(200), size=500)


@pytest.mark.parametrize("rare", [1, 3, 4])
def test_a_rare_label_in_a_small_sample(rare: int, tmp_path: Path) -> None:
    rows = [row | {"mood": "good" if n < rare else "bad"} for n, row in enumerate(texts(200))]
    if rare == 4:  # one for each split
        facts = load_summary(prepared(tmp_path, rows, size=10))
        assert {split: labels["good"] for split, labels in facts["balance"].items()} == dict.fromkeys(SPLITS, 1)
        return
    with pytest.raises(DatasetError) as raised:
        prepared(tmp_path, rows, size=10)
    assert f"has no row with the label 'good' ({rare} in all)" in str(raised.value)
    helps = {1: "bring 3 more rows with the label 'good'", 3: "set split.gate_rows to 0"}
    assert helps[rare] in str(raised.value)


@pytest.mark.parametrize("change", ["missing", "foreign", "corrupt"])
def test_a_split_that_cannot_be_read(change: str, tmp_path: Path) -> None:
    folder = prepared(tmp_path, texts(200))
    if change == "missing":
        (folder / "dev.parquet").unlink()
    elif change == "corrupt":
        (folder / "dev.parquet").write_bytes(b"nothing")
    else:
        import pandas as pd

        pd.DataFrame({"text": ["a"], "label": [1]}).to_parquet(folder / "dev.parquet")
    with pytest.raises(InputError, match=r"dev\.parquet"):
        load_split(folder, "dev")
    with pytest.raises(InputError, match=r"unknown split 'tset'. Did you mean 'test'\?"):
        load_split(folder, "tset")


def test_a_folder_without_prepared_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no prepared data"):
        load_summary(tmp_path)


@pytest.mark.parametrize(
    ("name", "size", "rows", "rows_sha256"),
    [
        ("rotten_tomatoes", 1000, ROTTEN_TOMATOES, "06dfeb9e9d1927ddd5408138b348fcc79c1160520f2e5570778efd6997de9821"),
        ("imdb", 300, IMDB, "bd7413149be8ac9f4ae153ee3cf4444e18f2311bbfd0fcd4014c6e6b66035894"),
    ],
)
def test_the_embedded_datasets(name: str, size: int, rows: dict[str, int], rows_sha256: str, tmp_path: Path) -> None:
    """Their splits are made once and for all: the same ids and labels in the same order, here and everywhere."""
    fetch_source(find_dataset(name, tmp_path), tmp_path / "raw", tmp_path)
    (tmp_path / "prepared").mkdir()
    summary = prepare_source(tmp_path / "raw", tmp_path / "prepared", size=size, settings=SplitSettings())
    assert summary["rows"] == rows
    assert summary["conflicts"]["texts"] == 0
    splits = [load_split(tmp_path / "prepared", split) for split in ("train", "dev", "gate", "test")]
    assert not any("<br" in text for split in splits for text in split.texts)
    assert sha256_json([[split.ids, split.labels] for split in splits]) == rows_sha256


@pytest.mark.parametrize("changes", [{}, {"shape": "regression", "labels": {}}, GROUPED])
def test_a_gate_that_nobody_asked_for_is_empty(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = [{**row, "question": number // 2} for number, row in enumerate(texts(200))]
    if "shape" in changes:
        rows = [{**row, "mood": number % 7} for number, row in enumerate(rows)]
    raw = fetched(tmp_path, rows, **changes)
    out = tmp_path / "out"
    out.mkdir()
    summary = prepare_source(raw, out, size=20, settings=SplitSettings(test_rows=20, gate_rows=0))
    assert summary["rows"] == {"train": 16, "dev": 4, "gate": 0, "test": 20}
    assert len(load_split(out, "gate")) == 0
    assert len(load_split(out, "train")) == 16
