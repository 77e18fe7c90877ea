"""``beft predict``: texts in, answers out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.workspace import ROOT, Beft, describe, prepare
from tests.support.tiny_bases import LABELS, TEXTS


def test_predict_gives_what_the_library_gives(beft: Beft, made: Path) -> None:
    from beft.inference.predictor import Predictor

    expected = Predictor(made / "first" / "adapter", base=made / "base").predict(TEXTS)
    answer = beft("predict", "first/adapter", "--base", "base", "--json", *TEXTS)
    assert answer.status == 0
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["text"] for row in rows] == list(TEXTS)
    assert [row["label"] for row in rows] == [row["label"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


def test_predict_reads_stdin_and_keeps_its_order(beft: Beft) -> None:
    by_argument = beft("predict", "first/adapter", "--base", "base", *TEXTS)
    by_stdin = beft("predict", "first/adapter", "--base", "base", stdin="\n".join(TEXTS) + "\n")
    assert by_stdin == by_argument
    label, probability, text = by_stdin.out.splitlines()[1].split("\t")
    assert label in LABELS and 1 / 3 < float(probability) <= 1 and text == TEXTS[1]


def test_predict_numbers_rows_over_all_parts(beft: Beft, monkeypatch: pytest.MonkeyPatch) -> None:
    from beft.inference.predictor import Predictor

    plain, firsts = Predictor.answer, []

    def answer(self: Predictor, *texts: Any, first_row: int = 0) -> Any:
        firsts.append(first_row)
        return plain(self, *texts, first_row=first_row)

    monkeypatch.setattr(Predictor, "answer", answer)
    monkeypatch.setattr("beft.cli.adapters._PREDICTED_AT_ONCE", 2)
    assert beft("predict", "first/adapter", "--base", "base", stdin="a\nb\nc\nd\ne\n").status == 0
    assert firsts == [0, 2, 4]


def test_predict_pairs(beft: Beft) -> None:
    answer = beft("predict", "first/adapter", "--base", "base", "--pairs", "--json", stdin="a film\tgood\n")
    assert answer.status == 0
    single = beft("predict", "first/adapter", "--base", "base", "--json", "a film")
    assert json.loads(answer.out)["probabilities"] != json.loads(single.out)["probabilities"]


@pytest.fixture(scope="module")
def of_pairs(made: Path) -> Path:
    """An adapter of pairs, trained by the command from a table of 120 pairs; the folder that holds it."""
    root = made / "of pairs"
    (root / "data" / "datasets").mkdir(parents=True)
    lines = ["a,b,label"]
    for number in range(60):
        lines += [f"a good film (no. {number}),a good film (no. {number}),pos"]
        lines += [f"the story was dull (no. {number}),something else,neg"]
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    columns = {"text": "a", "text_pair": "b", "label": "label"}
    describe(root, "pairs", columns=columns, labels=["neg", "pos"])
    prepare(root, "pairs", root / "prepared", rows=20)
    return root


def test_an_adapter_of_pairs_takes_pairs_alone_and_the_reverse(beft: Beft, of_pairs: Path, tmp_path: Path) -> None:
    trained = beft("train", of_pairs / "prepared", "--term", "value", "--out", tmp_path / "pairs")
    assert trained.status == 0, trained.err
    assert json.loads((tmp_path / "pairs" / "beft.json").read_text())["inputs"] == {"pairs": True, "choices": False}
    pair = "a good film\ta good film"
    assert beft("predict", tmp_path / "pairs", "--base", "base", "--pairs", pair).status == 0
    single = beft("predict", tmp_path / "pairs", "--base", "base", "a good film")
    assert (single.status, single.out) == (2, "")
    assert "trained on pairs" in single.err and "--pairs" in single.err
    trained = beft("train", "prepared", "--term", "value", "--out", tmp_path / "single")
    assert trained.status == 0, trained.err
    assert beft("predict", tmp_path / "single", "--base", "base", "a good film").status == 0
    twofold = beft("predict", tmp_path / "single", "--base", "base", "--pairs", pair)
    assert (twofold.status, twofold.out) == (2, "")
    assert "trained on single texts" in twofold.err
    merged = beft(
        "merge",
        tmp_path / "pairs",
        tmp_path / "single",
        "--out",
        tmp_path / "merged",
        "--base",
        "base",
        "--prepared",
        "prepared",
        "--prepared",
        "prepared",
        "--method",
        "dare",
    )
    assert merged.status == 2 and "trained on pairs" in merged.err
    assert not (tmp_path / "merged").exists()


def test_texts_are_utf_8_in_the_c_locale_too(made: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    text = "a na\u00efve film \U0001f600"
    program = "import sys; from flows.cli import main; assert sys.stdout.encoding != 'utf-8'; main()"
    command = [sys.executable, "-c", program, "predict", "first/adapter", "--base", "base", "--json", text]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode())["text"] == text


def test_characters_that_an_output_lacks_are_written_out(made: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "predict",
        "first/adapter",
        "--base",
        "base",
        "na\u00efve \u2026 film",
    ]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "na\u00efve \\u2026 film" in done.stdout.decode("latin-1")


def test_what_is_no_utf_8_is_named_by_its_place(beft: Beft, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = beft("predict", "first/adapter", "--base", "base", "fine", os.fsdecode(b"a na\xefve film"))
    assert (wrong.status, wrong.out) == (2, "")
    assert "text 2 is not UTF-8: byte 0xef after 4 bytes" in wrong.err
    wrong = beft("predict", "first/adapter", "--base", "base", "--choice", os.fsdecode(b"\xff"), "fine")
    assert (wrong.status, wrong.out) == (2, "")
    assert "--choice 1 is not UTF-8" in wrong.err


def test_the_mark_at_the_start_of_a_file_is_no_part_of_its_text(beft: Beft) -> None:
    plain = beft("predict", "first/adapter", "--base", "base", "--json", "a film")
    assert beft("predict", "first/adapter", "--base", "base", "--json", stdin="\ufeffa film\r\n") == plain


def test_predict_says_how_many_texts_were_cut(beft: Beft) -> None:
    answer = beft("predict", "first/adapter", "--base", "base", "good " * 60, "fine")
    assert answer.status == 0
    assert answer.err.startswith("1 ") and "24 tokens" in answer.err


def test_several_labels_of_a_row_stand_in_one_column() -> None:
    from beft.cli.adapters import _answer_columns

    probabilities = {"a": 0.9, "b": 0.2, "c": 0.4}
    assert _answer_columns({"labels": ["a", "c"], "probabilities": probabilities}) == ["a 0.9000, c 0.4000"]
    assert _answer_columns({"labels": [], "probabilities": probabilities}) == ["-"]
