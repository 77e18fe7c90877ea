"""A description is drafted from a file; it is read back as it was found, and its rows can be divided."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beft.cli import app
from beft.datasets import DatasetError, Description
from beft.datasets.draft import draft_description
from beft.datasets.loaders import fetch_source
from beft.datasets.preparation import prepare_source
from beft.errors import InputError
from beft.settings import SplitSettings

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


def test_what_a_draft_says_of_labels(tmp_path: Path) -> None:
    (tmp_path / "Support tickets.2026.csv").write_text(separated(NAMES, [*sentences(119, ("a",)), ("odd one", "b")]))
    found = draft_description(tmp_path / "Support tickets.2026.csv", tmp_path)
    assert found.description.name == "support_tickets"
    assert (found.labels, found.description.shares) == ({"a": 119, "b": 1}, {"a": 0.992, "b": 0.008})
    assert found.description.metric == "macro_f1"
    written = found.to_yaml([])
    assert "  - a  # 119 rows\n  - b  # 1 row\n" in written
    assert "# labels with very few rows, a slip of the pen perhaps: b" in written


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
    assert (found.test_rows, found.gate_rows) == (600, 600)
    assert drafted.notes == ["columns that are not used: id"]
    assert Description.from_mapping({**_yaml(drafted.to_yaml([])), "name": "scored"}, "x") == found


def _yaml(text: str) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = yaml.safe_load(text)
    return values


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("a.xlsx", b"PK\x03\x04", {}, "Excel"),
        ("a.csv", b"", {}, "empty"),
        ("a.csv", b"text,label\n", {}, "has no rows"),
        ("a.csv", b"text\none\ntwo\n", {}, "makes two columns"),
        ("a.csv", separated(NAMES, [(f"text {n}", f"{n}x") for n in range(40)]).encode(), {}, "with --label"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"label": "lable"}, "Did you mean 'label'"),
        ("a.csv", separated(NAMES, sentences(40, ("one",))).encode(), {"label": "label"}, "one value"),
        ("a.csv", separated(NAMES, [("7", label) for _, label in sentences(40)]).encode(), {}, "with --text"),
        ("a.csv", separated(NAMES, sentences(40)).encode(), {"name": "My Data"}, "lower-case letters"),
        ("a.json", b'{"rows": []}', {}, "list of JSON objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_drafted(name: str, content: bytes, options: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        draft_description(tmp_path / name, tmp_path, **options)


@pytest.fixture
def beft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["datasets", *arguments])


def test_the_command_writes_what_can_be_used_and_replaces_nothing_unasked(
    beft: Callable[..., Any], tmp_path: Path
) -> None:
    # The project's own settings keep a thousand rows for test and for gate; the description says how many there are.
    (tmp_path / "params.yaml").write_text("split: {test_rows: 1000, gate_rows: 1000}")
    (tmp_path / "mine.csv").write_text(separated(NAMES, sentences(300)))
    done = beft("draft", "mine.csv")
    assert done.exit_code == 0, done.output
    written = tmp_path / "data" / "datasets" / "mine.yaml"
    assert "# divided by the settings of today: train 144, dev 36, gate 60, test 60" in written.read_text()
    assert "beft run --set 'datasets={mine: {}}'" in done.output
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
