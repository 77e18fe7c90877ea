"""Drafts of files with labelled spans of a text, and of CoNLL files."""

import json
from pathlib import Path
from typing import Any

import pytest

from beft.datasets.drafting.draft import Draft, draft_description
from beft.datasets.spans import spans_in

CONLL = "".join(f"He\tO\nsaw\tO\nAda\tB-person\n{number}\tO\nin\tO\nOslo\tB-place\n\t\n" for number in range(60))


def drafted(root: Path, name: str, content: str, **options: Any) -> Draft:
    (root / name).write_text(content)
    found = draft_description(root / name, root, **options)
    assert found.to_yaml([]), "it is read back as it is"
    return found


def rows(name: str, **further: Any) -> str:
    found = []
    for number in range(60):
        spans = [{"start": 3, "end": 6, "label": "person"}] if number % 2 else []
        found.append({"id": number, "text": f"by Ada, {number} of them", name: spans, **further})
    return "".join(json.dumps(row) + "\n" for row in found)


@pytest.mark.parametrize("name", ["spans", "entities", "labels", "marks"])
def test_a_column_of_spans_is_recognised_by_what_it_holds(name: str, tmp_path: Path) -> None:
    found = drafted(tmp_path, "a.jsonl", rows(name))
    description = found.description
    assert (description.shape, description.columns.spans, description.columns.text) == (
        "token_classification",
        name,
        "text",
    )
    assert found.labels == {"person": 30} and description.metric == "entity_f1"
    assert description.word_rule == "punctuation"
    assert any("30 rows have none" in note for note in found.notes)


def test_the_text_is_the_one_that_the_spans_lie_in(tmp_path: Path) -> None:
    found = drafted(tmp_path, "a.jsonl", rows("spans", source="a news page of a kind", note="x"))
    assert found.description.columns.text == "text" and found.description.columns.text_pair is None
    named = drafted(tmp_path, "b.jsonl", rows("spans", source="a news page of a kind"), text="source", label="spans")
    assert named.description.columns.text == "source"


@pytest.mark.parametrize(("name", "form"), [("a.conll", None), ("a.txt", "conll"), ("a.tsv", "conll")])
def test_a_conll_file_is_recognised(name: str, form: str | None, tmp_path: Path) -> None:
    found = drafted(tmp_path, name, CONLL)
    description = found.description
    assert (description.shape, description.columns.spans) == ("token_classification", "spans")
    assert getattr(description.source, "format", None) == form
    assert found.labels == {"person": 60, "place": 60} and description.word_rule == "spaces"
    assert not any("IOB1" in note for note in found.notes)


def test_iob1_is_told(tmp_path: Path) -> None:
    found = drafted(tmp_path, "a.conll", CONLL.replace("B-person", "I-person"))
    assert any("60 entities begin with I-, as IOB1 writes them" in note for note in found.notes)


def test_lists_of_labels_are_no_spans(tmp_path: Path) -> None:
    text = "".join(json.dumps({"text": f"text {n} of many", "labels": ["a", "b"][: n % 3]}) + "\n" for n in range(60))
    assert drafted(tmp_path, "a.jsonl", text).description.shape == "multi_label"


def test_a_text_of_many_brackets_is_no_spans() -> None:
    assert spans_in("[" * 100_000) is None
