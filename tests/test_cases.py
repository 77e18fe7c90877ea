"""Files as people have them: read by `beft datasets check` as by a run, or refused with the words that mend them."""

import csv
import io
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from beft.errors import InputError
from flows.cli import status_of
from tasks.pipeline import find_step
from tasks.settings import PipelineSettings

ROWS = [
    (f"{text} (no. {number})", label)
    for number in range(60)
    for text, label in (("splendid acting throughout", "pos"), ("tired jokes and no heart", "neg"))
]
SETTINGS: dict[str, Any] = {"split": {"test_rows": 20, "gate_rows": 20}, "datasets": {"mine": {"size": "all"}}}


class Answer(NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str


Check = Callable[..., Answer]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """``check(name, contents, **source)``: write a file and its description, and check it as a user does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    # a flow that ran earlier in this process has set up a log whose stream is closed by now
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(name: str, contents: str | bytes, *arguments: str, **source: Any) -> Answer:
        parts = {key: source.pop(key) for key in ("columns", "labels", "shares", "shape") if key in source}
        (tmp_path / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        description = {
            "title": "mine",
            "version": 1,
            "source": {"kind": "files", "train": name, **source},
            "columns": {"text": "text", "label": "label"},
            "labels": ["neg", "pos"],
        }
        path = tmp_path / "data" / "datasets" / "mine.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(description | parts, allow_unicode=True))
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
        capsys.readouterr()
        return Answer(status_of(["datasets", "check", "mine", *arguments]), *capsys.readouterr())

    return run


def said_by_a_run(root: Path) -> str:
    """What a run says of the data in a folder: the message of the first of its steps that refuses it."""
    settings = PipelineSettings.read(root / "params.yaml")
    folders: dict[str, Path] = {}
    for name in ("fetch", "validate_raw", "prepare", "validate"):
        step = find_step(name)
        folders[name] = root / "run" / name
        folders[name].mkdir(parents=True)
        try:
            step.function(settings, {read: folders[read] for read in step.reads}, folders[name], dataset="mine")
        except InputError as error:
            return str(error)
    return ""


def fields(rows: Sequence[tuple[str, ...]], header: Sequence[str] = ("text", "label"), **options: Any) -> str:
    """Rows as CSV."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n", **options).writerows([header, *rows])
    return buffer.getvalue()


SEMICOLONS = fields(ROWS, delimiter=";", quoting=csv.QUOTE_ALL)
SINGLE = fields(
    [(f"{text}; so it's said", label) for text, label in ROWS], delimiter=";", quotechar="'", quoting=csv.QUOTE_ALL
)
SPAM = "v1,v2,,,\n" + "".join(f'{label},"{text}",,,\n' for text, label in ROWS)
JSON_LINES = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)


@pytest.mark.parametrize(
    ("name", "contents", "changes"),
    [
        ("semicolon.csv", SEMICOLONS, {"separator": ";"}),
        ("single_quotes.csv", SINGLE, {"separator": ";", "quote": "'"}),
        ("empty_header_names.csv", SPAM, {"columns": {"text": "v2", "label": "v1"}}),
        ("utf16.csv", fields(ROWS).encode("utf-16"), {"encoding": "utf-16"}),
        ("utf16_without_bom.csv", fields(ROWS).encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("lines.json", JSON_LINES, {}),
        ("three_annotators.csv", fields([row for row in ROWS for _ in range(3)]), {}),
    ],
)
def test_it_is_read(name: str, contents: str | bytes, changes: dict[str, Any], check: Check) -> None:
    answer = check(name, contents, **changes)
    assert (answer.status, answer.err) == (0, "")
    assert "split  rows  neg  pos" in answer.out


LONE = JSON_LINES + '{"text": "half an emoji \\ud83d", "label": "pos"}\n'


@pytest.mark.parametrize(
    ("name", "contents", "changes", "said"),
    [
        ("semicolon.csv", SEMICOLONS, {}, "say separator: \";\" and quote: '\"' in the source"),
        ("single_quotes.csv", SINGLE, {}, 'say separator: ";" and quote: "\'" in the source'),
        ("utf16.csv", fields(ROWS).encode("utf-16-le"), {"encoding": "utf-16"}, "'encoding: utf-16-le'"),
        ("lone.jsonl", LONE, {}, "column 'text': half a surrogate pair, which is no valid Unicode, in line 121"),
        ("labels.csv", fields([*ROWS, ("more", "odd")]), {}, "labels.csv line 122 ('odd')"),
        ("blank.csv", fields([*ROWS, (" ", "pos")]), {}, "blank.csv line 122 (' ')"),
        ("invisible.csv", fields([*ROWS, ("\u200b\ufeff", "pos")]), {}, "invisible.csv line 122"),
        ("columns.csv", fields(ROWS, header=("txt", "label")), {},
         "column 'text': there is no such column. Did you mean 'txt'? Known: label, txt."),
        ("rare.csv", fields([*((text, "neg") for text, _ in ROWS[:-2]), ("a", "pos"), ("b", "pos")]), {}, "mine"),
    ],
)  # fmt: skip
def test_it_is_refused_with_the_words_of_a_run(
    name: str, contents: str | bytes, changes: dict[str, Any], said: str, check: Check, tmp_path: Path
) -> None:
    answer = check(name, contents, **changes)
    assert (answer.status, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("beft: ") == 1
    assert answer.err.removeprefix("beft: ").strip() == said_by_a_run(tmp_path)


def test_lines_that_are_left_out_are_shown(check: Check, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{label}\t{text}" for text, label in ROWS]
    rows[9], rows[19] = "pos", "neg"
    contents = "\n".join(["label\ttext", *rows]) + "\n"
    answer = check("ragged.tsv", contents, ragged=True)
    assert answer.status == 0
    assert "short lines 2" in answer.out
    assert "train/ragged.tsv: lines with too few fields, left out: 2 (line 11, 21)" in answer.out
    answer = check("ragged.tsv", contents.replace("pos\tsplendid acting throughout (no. 25)", "odd\tx"), ragged=True)
    assert answer.status == 2
    assert "ragged.tsv line 52 ('odd')" in answer.err
    assert "ragged.tsv: 2 lines: 11, 21, left out for too few fields" in caplog.messages


def test_a_table_of_many_labels_fits_the_terminal(check: Check) -> None:
    names = [f"topic {number} of a long list of things that people ask about" for number in range(77)]
    rows = [(f"question {number} about it", names[number % 77]) for number in range(77 * 12)]
    answer = check("many_labels.csv", fields(rows), labels=names)
    assert (answer.status, answer.err) == (0, "")
    table = answer.out.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 80
    assert sum(line.startswith("topic ") for line in answer.out.splitlines()) == 77
    facts = json.loads(check("many_labels.csv", fields(rows), "--json", labels=names).out)
    assert list(facts["balance"]["train"]) == names


def test_settings_that_a_run_refuses(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "promotion", {"slices": ["lenght"]})
    answer = check("fine.csv", fields(ROWS))
    assert answer.status == 2
    assert "promotion.slices: unknown column of a dataset 'lenght'. Did you mean 'length'?" in answer.err


def test_the_science_alone_checks_without_expectations(check: Check, tmp_path: Path) -> None:
    """``beft.cli`` by itself has no Great Expectations; it reads and divides the rows."""
    from typer.testing import CliRunner

    from beft.cli.app import app

    check("fine.csv", fields(ROWS))
    done = CliRunner().invoke(
        app, ["datasets", "check", "mine", "--set", "split.test_rows=20", "--set", "split.gate_rows=20"]
    )
    assert done.exit_code == 0, done.output
    assert "split  rows  neg  pos" in done.output
