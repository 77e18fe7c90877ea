"""A description is drafted from a file; it is read back as it was found, and its rows can be divided."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beft.cli.app import app
from beft.datasets.description import DatasetError, Description
from beft.datasets.drafting.draft import draft_description
from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.errors import InputError
from beft.settings import SplitSettings
from beft.yaml_text import parse_yaml

Rows = list[tuple[str, ...]]


def sentences(count: int = 120, labels: tuple[str, ...] = ("pos", "neg")) -> Rows:
    """Texts with commas and apostrophes, and their labels in turn."""
    return [(f"it's number {n}; of many, and no more", labels[n % len(labels)]) for n in range(count)]


def separated(header: tuple[str, ...], rows: Rows, **dialect: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", **dialect)
    writer.writerows([header, *rows] if header else rows)
    return text.getvalue()


def lines(rows: Rows) -> str:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


def prepared(root: Path, drafted: Description) -> dict[str, Any]:
    for name in ("raw", "prepared"):
        (root / name).mkdir()
    fetch_source(drafted, root / "raw", root)
    return prepare_source(root / "raw", root / "prepared", size="auto", settings=SplitSettings())


NAMES = ("text", "label")
CASES: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "plain": ("a.csv", separated(NAMES, sentences()).encode(), {}),
    "semicolon": ("a.csv", separated(NAMES, sentences(), delimiter=";").encode(), {"separator": ";"}),
    "quoted by apostrophes": (
        "a.csv",
        separated(NAMES, sentences(), delimiter=";", quotechar="'", quoting=csv.QUOTE_ALL).encode(),
        {"separator": ";", "quote": "'"},
    ),
    "empty header names": (
        "a.csv",
        separated(("v1", "v2", "", "", ""), [(label, text, "", "", "") for text, label in sentences()]).encode(),
        {},
    ),
    "UTF-16 without a mark": ("a.csv", separated(NAMES, sentences()).encode("utf-16-le"), {"encoding": "utf-16-le"}),
    "big-endian": ("a.csv", separated(NAMES, sentences()).encode("utf-16-be"), {"encoding": "utf-16-be"}),
    "UTF-16 with a mark": ("a.csv", separated(NAMES, sentences()).encode("utf-16"), {"encoding": "utf-16"}),
    "Windows": (
        "a.csv",
        separated(NAMES, [(f"{text} \u2013 caf\u00e9", label) for text, label in sentences()]).encode("cp1252"),
        {"encoding": "cp1252"},
    ),
    "three annotators": ("a.csv", separated(NAMES, [row for row in sentences() for _ in range(3)]).encode(), {}),
    "ragged": (
        "a.tsv",
        separated(NAMES, [*sentences(), ("one field",)], delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        .replace("label\n", "label\nanother\n", 1)
        .encode(),
        {"ragged": True},
    ),
    "JSON lines called JSON": ("a.json", lines(sentences()).encode(), {}),
    "JSON lines": ("a.jsonl", lines(sentences()).encode(), {}),
    "rare class": ("a.csv", separated(NAMES, sentences(117, ("spam",)) + sentences(120, ("ham",))[117:]).encode(), {}),
    "many labels": (
        "a.csv",
        separated(NAMES, sentences(500, tuple(f"topic {n}" for n in range(25)))).encode(),
        {},
    ),
    "no header": ("a.csv", separated((), sentences()).encode(), {"header": ["column_1", "column_2"]}),
    "a separator at the end of each line": (
        "a.csv",
        separated(("text", "label", ""), [(*row, "") for row in sentences()]).encode(),
        {},
    ),
    "no header, and its first row twice": (
        "a.csv",
        separated((), [*sentences(), sentences()[0]]).encode(),
        {"header": ["column_1", "column_2"]},
    ),
    "names and notes of several lines": (
        "a.csv",
        separated(
            ("text", "label", "a comment\nof: [the user", "a\u2028b\x07c"),
            [(text, f"{label}\nor: {{so", "x", "y") for text, label in sentences()],
        ).encode(),
        {},
    ),
    "words of YAML": ("a.csv", separated(NAMES, sentences(120, ("yes", "no", "null", "1"))).encode(), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_draft_is_read_as_it_was_found_and_divides_its_rows(case: str, tmp_path: Path) -> None:
    name, content, reading = CASES[case]
    (tmp_path / name).write_bytes(content)
    found = draft_description(tmp_path / name, tmp_path)
    path = tmp_path / "a.yaml"
    path.write_text(found.to_yaml(["two lines"]), encoding="utf-8")
    again = Description.read(path)
    assert again == found.description
    source = again.source.model_dump(mode="json", exclude_defaults=True)
    assert {key: value for key, value in source.items() if key not in ("kind", "train")} == reading
    facts = prepared(tmp_path, again)
    assert facts["rows"]["train"] and facts["rows"]["test"]
    assert facts["raw_rows"] == sum(found.labels.values())


SETS = [";".join(name for name, every in (("a", 2), ("b c", 3), ("d", 7)) if n % every == 0) for n in range(120)]


@pytest.mark.parametrize(
    ("header", "options", "separator"),
    [("tags", {}, ";"), ("labels", {}, ";"), ("kept", {"label": "kept"}, ";"), ("topics", {}, None)],
)
def test_rows_with_several_labels_are_recognised(
    header: str, options: dict[str, str], separator: str | None, tmp_path: Path
) -> None:
    texts = [text for text, _ in sentences()]
    if separator is None:
        content = "".join(
            json.dumps({"text": text, header: [one for one in of_row.split(";") if one]}) + "\n"
            for text, of_row in zip(texts, SETS, strict=True)
        )
    else:
        content = separated(("text", header), list(zip(texts, SETS, strict=True)))
    file = tmp_path / ("a.jsonl" if separator is None else "a.csv")
    file.write_text(content)
    found = draft_description(file, tmp_path, **options)  # type: ignore[arg-type]
    description = found.description
    assert (description.shape, description.label_separator) == ("multi_label", separator)
    assert description.columns.labels == header and description.columns.label is None
    assert found.labels == {"a": 60, "b c": 40, "d": 18}
    assert Description.from_mapping({**parse_yaml(found.to_yaml([])), "name": "a"}, "a") == description
    assert prepared(tmp_path, description)["balance"]["train"]["a"] > 0


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ("label", ["yes, fully", "no"]),  # a comma within a label
        ("label", ["a,b", "c"]),  # never apart
        ("keywords", ["a;b", "a", "b", "a;c"]),  # its name says nothing, and another column is called label
    ],
)
def test_a_separator_alone_makes_no_sets(header: str, values: list[str], tmp_path: Path) -> None:
    columns = ("text", header) if header == "label" else ("text", "label", header)
    rows = [
        (text, *([label] if len(columns) == 3 else []), values[n % len(values)])
        for n, (text, label) in enumerate(sentences())
    ]
    (tmp_path / "a.csv").write_text(separated(columns, rows))
    description = draft_description(tmp_path / "a.csv", tmp_path).description
    assert description.shape == "classification" and description.columns.label == "label"


def test_what_a_draft_says_of_labels(tmp_path: Path) -> None:
    (tmp_path / "Support tickets.2026.csv").write_text(separated(NAMES, [*sentences(119, ("a",)), ("odd one", "b")]))
    found = draft_description(tmp_path / "Support tickets.2026.csv", tmp_path)
    assert found.description.name == "support_tickets"
    assert (found.labels, found.description.shares) == ({"a": 119, "b": 1}, {"a": 0.992, "b": 0.008})
    assert found.description.metric == "macro_f1"
    written = found.to_yaml([])
    assert "  - a  # 119 rows\n  - b  # 1 row\n" in written
    assert "# labels with very few rows, a slip of the pen perhaps: b" in written
    assert "# metric: macro_f1, in which every label counts alike, for the label 'b' has 0.83 % of the rows" in written


@pytest.mark.parametrize(
    ("counts", "metric", "why"),
    [
        ((60, 60), "accuracy", None),
        ((90, 30), "accuracy", None),
        ((100, 20), "macro_f1", "one label has more than 80 % of the rows"),
        ((60, 60, 6), "macro_f1", "the label 'c' has 4.8 % of the rows"),
        ((5,) * 25, "macro_f1", "the label 'a' has 4 % of the rows"),
    ],
)
def test_the_metric_of_a_draft_follows_the_shares(
    counts: tuple[int, ...], metric: str, why: str | None, tmp_path: Path
) -> None:
    rows = [(f"text {label} {n} of them", chr(97 + label)) for label, count in enumerate(counts) for n in range(count)]
    (tmp_path / "a.csv").write_text(separated(NAMES, rows))
    found = draft_description(tmp_path / "a.csv", tmp_path)
    assert found.description.metric == metric
    assert [why in note for note in found.notes if note.startswith("metric: ")] == ([True] if why else [])


def test_pairs_numbers_and_large_data(tmp_path: Path) -> None:
    pairs = [(f"this is question {n}", f"and this is answer {n}", str(n % 2)) for n in range(120)]
    (tmp_path / "pairs.csv").write_text(separated(("a", "b", "label"), pairs))
    found = draft_description(tmp_path / "pairs.csv", tmp_path).description
    assert (found.columns.text, found.columns.text_pair, list(found.labels)) == ("a", "b", ["0", "1"])
    table = {"text": [f"text number {n} of all" for n in range(3000)], "id": list(range(3000))}
    pq.write_table(pa.table({**table, "score": [n % 7 / 2 for n in range(3000)]}), tmp_path / "scored.parquet")
    drafted = draft_description(tmp_path / "scored.parquet", tmp_path)
    found = drafted.description
    assert (found.shape, found.label_range, found.sizes) == ("regression", (0, 3), {"low": 1000})
    assert (found.test_rows, found.gate_rows) == (None, None)
    assert drafted.notes == ["columns that are not used: id"]
    assert Description.from_mapping({**_yaml(drafted.to_yaml([])), "name": "scored"}, "x") == found


@pytest.mark.parametrize("missing", [None, "", "  ", math.nan])
def test_a_cell_without_a_label_makes_none(missing: Any, tmp_path: Path) -> None:
    rows = [{"text": f"text number {n} of many", "label": missing if n % 9 == 0 else n % 2} for n in range(90)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert draft_description(tmp_path / "a.jsonl", tmp_path).labels == {"0": 40, "1": 40}
    scored = [row | {"label": missing if n == 7 else n / 8} for n, row in enumerate(rows)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))
    found = draft_description(tmp_path / "a.jsonl", tmp_path).description
    assert (found.shape, found.label_range) == ("regression", (0, 12))
    with pytest.raises(DatasetError, match="no number in line 8"):
        prepared(tmp_path, found)


def test_a_column_called_label_holds_the_labels(tmp_path: Path) -> None:
    rows = [(text, f"topic {n % 40}", "web") for n, (text, _) in enumerate(sentences(100))]
    rows = [(text, topic, "mail" if n % 2 else source) for n, (text, topic, source) in enumerate(rows)]
    (tmp_path / "a.csv").write_text(separated(("text", "Label", "source"), rows))
    assert draft_description(tmp_path / "a.csv", tmp_path).description.columns.label == "Label"


@pytest.mark.parametrize(
    ("numbers", "shape", "note"),
    [
        ([n % 77 for n in range(231)], "classification", "taken for classes: of values on a scale, say"),
        ([n % 77 + (n % 77 > 70) for n in range(231)], "regression", "taken for values on a scale: of classes, list"),
        ([*(n % 77 for n in range(231)), 77], "regression", "taken for values on a scale: of classes, list"),
        ([n % 250 for n in range(1000)], "regression", "taken for values on a scale: of classes, list"),
        ([n % 77 / 2 for n in range(231)], "regression", None),
        ([n % 5 for n in range(231)], "classification", None),
    ],
)
def test_numbers_of_classes_and_on_a_scale(numbers: list[float], shape: str, note: str | None, tmp_path: Path) -> None:
    rows = [(f"text number {n} of many", str(number)) for n, number in enumerate(numbers)]
    (tmp_path / "a.csv").write_text(separated(NAMES, rows))
    found = draft_description(tmp_path / "a.csv", tmp_path)
    assert found.description.shape == shape
    of_label = [said for said in found.notes if not said.startswith("metric: ")]
    assert [note in said for said in of_label if note] == ([True] if note else []), found.notes
    assert bool(found.notes) == bool(note)
    assert len(found.labels) == (len(set(numbers)) if shape == "classification" else 0)


def test_a_draft_that_would_be_read_as_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text(separated(NAMES, sentences()))
    found = draft_description(tmp_path / "a.csv", tmp_path)
    for wrong in ("'", "other"):
        monkeypatch.setattr("beft.datasets.drafting.draft.in_one_line", lambda _value, wrong=wrong: wrong)
        with pytest.raises(InputError, match="cannot be written as YAML: describe the dataset by hand"):
            found.to_yaml([])


def test_what_is_no_utf_8_is_to_be_looked_at(tmp_path: Path) -> None:
    for encoding, letter in (("cp1252", "\u2013"), ("latin-1", "\x81")):
        rows = [(f"{text} {letter}", label) for text, label in sentences()]
        (tmp_path / "a.csv").write_bytes(separated(NAMES, rows).encode(encoding))
        [note] = draft_description(tmp_path / "a.csv", tmp_path).notes
        assert note == f"encoding: no UTF-8; taken for {encoding}: look at accented letters"


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = yaml.safe_load(text)
    return values


TWICE = separated(("text", "label", "text"), [(text, label, text) for text, label in sentences(40)]).encode()
MANY = [(f"text {n}", f"topic {n % 210}", "ab"[n % 2]) for n in range(900)]


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("a.xlsx", b"PK\x03\x04", {}, "Excel"),
        ("a.csv", b"", {}, "empty"),
        ("a.csv", b"text,label\n", {}, "has no rows"),
        ("a.csv", separated(NAMES, sentences(12)).encode(), {}, "12 rows are too few: bring 20 or more"),
        ("a.csv", (separated(NAMES, sentences(60)) * 2).encode(), {}, "the header stands again in row 61 below it"),
        ("a.csv", separated(NAMES, sentences(60)).encode() + b"a\0b,pos\n", {}, "a.csv holds zero bytes: remove them"),
        ("a.csv", separated((*NAMES, "source"), MANY).encode(), {}, "the column 'label' has 210 different values"),
        ("a.csv", b"text\none\ntwo\n", {}, "makes two columns"),
        ("a.csv", separated(NAMES, [(f"text {n}", f"{n}x") for n in range(40)]).encode(), {}, "with --label"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"label": "lable"}, "Did you mean 'label'"),
        ("a.csv", separated(NAMES, sentences(40, ("one",))).encode(), {"label": "label"}, "one value"),
        ("a.csv", separated(NAMES, [("7", label) for _, label in sentences(40)]).encode(), {}, "with --text"),
        ("a.csv", TWICE, {}, "the columns are 'label'; of 'text' there are several, so none was looked at"),
        ("a.csv", TWICE, {"text": "text"}, "the column 'text' is there more than once: rename or remove all but one"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"text": "text", "text_pair": "text"}, "--text-pair both"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"text": "label", "label": "label"}, "--label both name"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"label": "text"}, "40 different values in 40 rows, which"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"name": "My Data"}, "lower-case letters"),
        ("a.json", b'{"rows": []}', {}, "list of JSON objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_drafted(name: str, content: bytes, options: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        draft_description(tmp_path / name, tmp_path, **options)


def test_a_draft_names_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [(text, label, "x", "y") for text, label in sentences(40)]
    (tmp_path / "a.csv").write_text(separated((*NAMES, "source", "source"), rows))
    assert (
        "columns that are left out, for several have this name: source"
        in draft_description(tmp_path / "a.csv", tmp_path).notes
    )


def test_rows_without_a_list_of_labels_hide_no_column(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "intents": [label, "all"]} for text, label in sentences(40)]
    del rows[7]["intents"]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = draft_description(tmp_path / "a.jsonl", tmp_path).description
    assert (found.shape, found.columns.labels) == ("multi_label", "intents")


def test_a_score_is_the_label_before_columns_with_few_values(tmp_path: Path) -> None:
    rows = [(text, "en" if number % 2 else "de", f"{number % 9 / 2}") for number, (text, _) in enumerate(sentences(40))]
    (tmp_path / "a.csv").write_text(separated(("text", "language", "score"), rows))
    found = draft_description(tmp_path / "a.csv", tmp_path).description
    assert (found.shape, found.columns.label) == ("regression", "score")


@pytest.mark.parametrize("listed", [False, True])
def test_choices_of_a_row_are_pointed_out(listed: bool, tmp_path: Path) -> None:
    rows = [{"question": text, "answer": number % 2} for number, (text, _) in enumerate(sentences(40))]
    for row in rows:
        row |= {"choices": ["a dog", "a cat"]} if listed else {"option_a": "a dog", "option_b": "a cat"}
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    names = "choices" if listed else "option_a, option_b"
    [note] = [note for note in draft_description(tmp_path / "a.jsonl", tmp_path).notes if "multiple_choice" in note]
    assert note.startswith(f"{names}: where they hold a row's choices and 'answer' the right one")


@pytest.fixture
def beft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["datasets", *arguments])


def test_the_command_writes_what_can_be_used_and_replaces_nothing_unasked(
    beft: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text(separated(NAMES, sentences(300)))
    settings = ("--set", "split.test_rows=1000", "--set", "split.gate_rows=1000")
    with pytest.raises(DatasetError, match=r"set split.gate_rows to auto and split.test_rows to auto$"):
        raise beft("draft", "mine.csv", *settings).exception
    done = beft("draft", "mine.csv", *settings, "--set", "split.test_rows=auto", "--set", "split.gate_rows=auto")
    assert done.exit_code == 0, done.output
    written = tmp_path / "data" / "datasets" / "mine.yaml"
    assert "# divided by the settings of today: train 144, dev 36, gate 60, test 60" in written.read_text()
    assert not {"test_rows", "gate_rows"} & set(_yaml(written.read_text()))
    written.write_text("corrected by hand")
    with pytest.raises(InputError, match=r"a dataset 'mine' already .*give another --name, or --replace it"):
        raise beft("draft", "mine.csv").exception
    assert written.read_text() == "corrected by hand"
    assert beft("draft", "mine.csv", "--replace").exit_code == 0
    assert beft("draft", "mine.csv", "--name", "other").exit_code == 0
    (tmp_path / "imdb.csv").write_text(separated(NAMES, sentences(300)))
    with pytest.raises(InputError, match="a dataset 'imdb' already"):
        raise beft("draft", "imdb.csv").exception


def test_what_check_refuses_is_not_written(beft: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(separated(NAMES, [*sentences(100), (" ", "pos")]))
    with pytest.raises(DatasetError, match="blank in line 102"):
        raise beft("draft", "mine.csv").exception
    assert not (tmp_path / "data").exists()
