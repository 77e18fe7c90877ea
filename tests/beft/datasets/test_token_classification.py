"""Data with labelled spans: from a description to prepared rows; what is wrong with a span is told with its row."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beft.datasets.dataset import Dataset
from beft.datasets.description import DatasetError
from beft.datasets.prepared import load_split, load_summary
from beft.datasets.words import words_of, words_of_span
from tests.beft.datasets.small import describe, prepared

SPANS: dict[str, Any] = {
    "shape": "token_classification",
    "labels": ["city", "person"],
    "columns": {"text": "sentence", "spans": "entities"},
}
WNUT = Path("/", "work", "shared", "data", "WNUT17")


def rows_of(count: int) -> list[dict[str, Any]]:
    """Rows of which every second names a city, every third a person."""
    found = []
    for number in range(count):
        text, spans = f"row {number}", []
        for word, label, every in (("Oslo", "city", 2), ("Ada Byron", "person", 3)):
            if number % every == 0:
                spans.append({"start": len(text) + 4, "end": len(text) + 4 + len(word), "label": label})
                text += f" in {word}"
        found.append({"sentence": f"{text}.", "entities": spans})
    return found


def test_spans_become_numbers_in_order(tmp_path: Path) -> None:
    rows = rows_of(240)
    for row in rows:
        row["entities"].reverse()
    folder = prepared(tmp_path, rows, size="all", **SPANS)
    summary = load_summary(folder)
    assert summary["shape"] == "token_classification" and summary["metric"] == "entity_f1"
    assert summary["words"] == "punctuation" and summary["within_words"] == 0
    for split in ("train", "dev", "gate", "test"):
        found = load_split(folder, split)
        assert found.labels == [] and found.spans is not None
        for text, spans in zip(found.texts, found.spans, strict=True):
            named = [(text[start:end], label) for start, end, label in spans]
            number = int(text.split()[1].rstrip("."))
            assert named == [("Oslo", 0)] * (number % 2 == 0) + [("Ada Byron", 1)] * (number % 3 == 0)
        counts = {"city": "Oslo", "person": "Ada"}
        texts = " ".join(found.texts)
        assert summary["entities"][split] == {label: texts.count(word) for label, word in counts.items()}
        assert summary["balance"][split] == summary["entities"][split], "rows with a span of each label"


@pytest.mark.parametrize("form", ["triples", "csv"])
def test_other_ways_to_write_spans(form: str, tmp_path: Path) -> None:
    rows = rows_of(240)
    expected = prepared(tmp_path / "objects", rows, **SPANS)
    if form == "triples":
        other = [{**row, "entities": [[s["start"], s["end"], s["label"]] for s in row["entities"]]} for row in rows]
        found = prepared(tmp_path / form, other, **SPANS)
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["sentence", "entities"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "entities": json.dumps(row["entities"]) if row["entities"] else ""})
        (tmp_path / form).mkdir()
        (tmp_path / form / "rows.csv").write_text(text.getvalue())
        found = prepared(tmp_path / form, [], **SPANS, source={"kind": "files", "train": "rows.csv"})
    assert load_split(found, "train") == load_split(expected, "train")


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([[3, 3, "city"]], r"the span 3 to 3 \(city\) ends before it begins"),
        ([[5, 2, "city"]], "ends before it begins"),
        ([[0, 99, "city"]], "lies outside of the text, which has 6 characters"),
        ([[-1, 2, "city"]], "lies outside of the text"),
        ([[0, 3, "city"], [2, 4, "person"]], r"the span 2 to 4 \(person\) overlaps the span 0 to 3"),
        ([[0, 3, "town"]], "'town' is none of the labels city, person: correct it"),
        ([[0, 3]], "no list of spans: write"),
        ([{"start": "0", "end": 3, "label": "city"}], "no list of spans"),
        ("not JSON", "no list of spans"),
        (None, "a row without spans has an empty list"),
    ],
)
def test_a_wrong_span_is_told_with_file_and_row(spans: Any, told: str, tmp_path: Path) -> None:
    rows = rows_of(40)
    rows[3] = {"sentence": "a text", "entities": spans}
    with pytest.raises(DatasetError, match=rf"rows.jsonl, column 'entities', line 4: .*{told}"):
        prepared(tmp_path, rows, **SPANS)


def test_many_wrong_rows_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "entities": [[0, 999, "city"]]} for row in rows_of(40)]
    with pytest.raises(DatasetError, match="35 more rows whose spans are wrong"):
        prepared(tmp_path, rows, **SPANS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"columns": {"text": "sentence", "label": "entities"}}, "token_classification needs the column 'spans'"),
        ({"columns": {"text": "sentence", "text_pair": "b", "spans": "entities"}}, "has no column 'text_pair'"),
        ({"labels": []}, "token_classification needs the labels of its spans"),
        ({"metric": "accuracy"}, "'accuracy' does not fit token_classification"),
        ({"replace": {"<br>": " "}}, "count the characters of the text as it is"),
        ({"words": "letters"}, "words"),
        ({"prompt": {"template": "{text}"}}, "token_classification is not put to a language model"),
        ({"shape": "multi_label", "columns": {"text": "a", "labels": "b"}, "words": "spaces"}, "words: it is for"),
    ],
)
def test_a_description_that_cannot_be(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=told):
        describe(tmp_path, **(SPANS | changes))


def test_other_descriptions_are_written_as_before(tmp_path: Path) -> None:
    text = describe(tmp_path).to_yaml()
    assert "spans" not in text and "words" not in text
    assert "words: spaces" in describe(tmp_path, **SPANS, words="spaces").to_yaml()


def test_one_label_is_enough_but_some_row_has_a_span(tmp_path: Path) -> None:
    rows = [{**row, "entities": [s for s in row["entities"] if s["label"] == "city"]} for row in rows_of(240)]
    folder = prepared(tmp_path, rows, **(SPANS | {"labels": ["city"]}))
    assert load_summary(folder)["labels"] == ["city"]
    nothing = [{**row, "entities": []} for row in rows]
    with pytest.raises(DatasetError, match="no row of its train data has a span"):
        prepared(tmp_path / "nothing", nothing, **SPANS)
    with pytest.raises(DatasetError, match="no row has the label 'person'"):
        prepared(tmp_path / "unused", rows, **SPANS)


def test_spans_within_words_are_counted(tmp_path: Path) -> None:
    rows = rows_of(240)
    counted = {}
    for rule in ("spaces", "punctuation"):
        folder = prepared(tmp_path / rule, rows, size="all", **SPANS, words=rule)
        counted[rule] = load_summary(folder)["within_words"]
    assert counted == {"spaces": 120 + 40, "punctuation": 0}, "a full stop is part of the last word between spaces"


def test_a_conll_file_is_read_by_its_name(tmp_path: Path) -> None:
    sentences = [f"{word}\tB-city\nis\tO\nrow\tO\n{number}\tO\n" for number in range(240) for word in ["Oslo"]]
    (tmp_path / "rows.conll").write_text("\n".join(sentences))
    raw = {"source": {"kind": "files", "train": "rows.conll"}, "labels": ["city"]}
    folder = prepared(tmp_path, [], **(SPANS | raw | {"columns": {"text": "text", "spans": "spans"}}))
    found = load_split(folder, "train")
    assert load_summary(folder)["words"] == "spaces"
    assert all(text.startswith("Oslo is row ") for text in found.texts) and found.spans == [[[0, 4, 0]]] * len(found)


def test_the_words_of_a_text() -> None:
    text = "St. Ives (U.K.): 東京 isn't far"
    between = [text[first:last] for first, last in words_of(text, "spaces")]
    assert between == text.split()
    alone = [text[first:last] for first, last in words_of(text, "punctuation")]
    assert alone == [*["St", ".", "Ives", "(", "U", ".", "K", ".", ")", ":", "東", "京", "isn", "'", "t", "far"]]
    assert words_of(" \n", "punctuation") == []
    words = words_of(text, "punctuation")
    assert words_of_span(words, 0, 8) == (0, 3, True)
    assert words_of_span(words, 1, 6) == (0, 3, False)
    assert words_of_span(words, 8, 9) == (0, 0, False)


def test_rows_in_memory() -> None:
    rows = rows_of(60)
    texts, spans = [row["sentence"] for row in rows], [row["entities"] for row in rows]
    data = Dataset.from_rows(texts, spans, test_rows=20, gate_rows=0)
    assert data.labels == ("city", "person") and data.metric == "entity_f1"
    triples = [[(one["start"], one["end"], one["label"]) for one in of_row] for of_row in spans]
    assert Dataset.from_rows(texts, triples, test_rows=20, gate_rows=0).rows("train") == data.rows("train")
    of_numpy = [[{**one, "start": np.int64(one["start"]), "end": np.int64(one["end"])} for one in of] for of in spans]
    assert Dataset.from_rows(texts, of_numpy, test_rows=20, gate_rows=0).rows("train") == data.rows("train")
    with pytest.raises(DatasetError, match="lies outside"):
        Dataset.from_rows(texts, [[[0, 99, "city"]], *spans[1:]], test_rows=20, gate_rows=0)


@pytest.mark.skipif(not os.access(WNUT, os.R_OK), reason="the data is not on this machine")
def test_wnut17_has_the_entities_that_its_authors_count(tmp_path: Path) -> None:
    """Derczynski et al. (2017), "Results of the WNUT2017 shared task", table 2: entities of train and of test."""
    names = ["corporation", "creative-work", "group", "location", "person", "product"]
    files = {split: str(WNUT / f"{split}.conll") for split in ("train", "test")}
    folder = prepared(
        tmp_path,
        [],
        size="all",
        **(SPANS | {"labels": names, "columns": {"text": "text", "spans": "spans"}}),
        source={"kind": "files", **files},
    )
    summary = load_summary(folder)
    assert sum(summary["entities"]["test"].values()) == 1079
    assert summary["rows"]["test"] == 1287
