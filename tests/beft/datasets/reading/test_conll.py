"""CoNLL files: IOB2 and IOB1, columns, documents, and the line of what is wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.datasets.reading.conll import Sentences, is_conll, read_conll
from beft.datasets.sources import Reading
from beft.errors import InputError


def read(folder: Path, text: str) -> Sentences:
    path = folder / "rows.conll"
    path.write_text(text, encoding="utf-8")
    return read_conll(path, Reading())


def named(found: Sentences) -> list[list[tuple[str, str]]]:
    """The text and label of every span."""
    rows = zip(found.columns["text"], found.columns["spans"], strict=True)
    return [[(text[span["start"] : span["end"]], span["label"]) for span in spans] for text, spans in rows]


def test_iob2(tmp_path: Path) -> None:
    found = read(tmp_path, "In O\nNew B-LOC\nYork I-LOC\nCity I-LOC\nOslo B-LOC\nUN B-ORG\n\n\nNo O\n")
    assert found.columns["text"] == ["In New York City Oslo UN", "No"]
    assert named(found) == [[("New York City", "LOC"), ("Oslo", "LOC"), ("UN", "ORG")], []]
    assert found.lines == [1, 9] and found.begun_inside == 0


def test_iob1_begins_with_i(tmp_path: Path) -> None:
    found = read(tmp_path, "New I-LOC\nYork I-LOC\nOslo B-LOC\nUN I-ORG\nof O\nAda I-PER\n")
    assert named(found) == [[("New York", "LOC"), ("Oslo", "LOC"), ("UN", "ORG"), ("Ada", "PER")]]
    assert found.begun_inside == 3


def test_blanks_within_words_are_part_of_them(tmp_path: Path) -> None:
    found = read(tmp_path, "Prix NN O\n10\u00a0000 CD B-SUM\n\u20ac\u202f5  CD I-SUM \n")
    assert found.columns["text"] == ["Prix 10\u00a0000 \u20ac\u202f5"]
    assert named(found) == [[("10\u00a0000 \u20ac\u202f5", "SUM")]]


def test_columns_between_documents_tabs_comments_and_a_mark(tmp_path: Path) -> None:
    text = (
        "\ufeff-DOCSTART- -X- -X- O\n\n# a comment\nOslo NNP B-NP B-LOC\nsings VBZ B-VP O\n\t\n"
        "-DOCSTART- -X- -X- O\n# O\n\nNew\u00a0York\tB-LOC\r\n"
    )
    found = read(tmp_path, text)
    assert found.columns["text"] == ["Oslo sings", "#", "New\u00a0York"]
    assert named(found) == [[("Oslo", "LOC")], [], [("New\u00a0York", "LOC")]]
    assert found.columns["document"] == [1, 2, 2] and found.lines == [4, 8, 10]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Oslo S-LOC", "line 3: a line must be a word and its tag.*its last column is 'S-LOC'; convert other schemes"),
        ("Oslo LOC", "its last column is 'LOC'"),
        ("Oslo", "it is 'Oslo' alone"),
        ("Oslo B-", "its last column is 'B-'"),
    ],
)
def test_a_line_that_is_no_word_with_a_tag(line: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        read(tmp_path, f"In O\nNew B-LOC\n{line}\n")


def test_what_looks_like_a_conll_file(tmp_path: Path) -> None:
    for name, text, expected in (
        ("tags.txt", "In\tO\nOslo\tB-LOC\n", True),
        ("rows.tsv", "text\tlabel\na film\tgood\n", False),
        ("nothing.txt", "In\tO\nthe\tO\n", False),
        ("empty.txt", "", False),
    ):
        (tmp_path / name).write_text(text)
        assert is_conll(tmp_path / name, "utf-8") is expected, name


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=4), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: Any, drawn: list[list[tuple[str, int]]]) -> None:
    """Entities of 1 to 4 words between single words, by a writer of its own."""
    lines, expected = [], []
    for entities in drawn:
        words: list[str] = ["start"]
        lines.append("start O")
        spans = []
        for label, further in entities:
            spans.append((" ".join(["w"] * (further + 1)), label))
            lines += [f"w B-{label}", *[f"w I-{label}"] * further]
            words += ["w"] * (further + 1)
        lines.append("")
        expected.append(spans)
    assert named(read(tmp_path_factory.mktemp("conll"), "\n".join(lines))) == expected
