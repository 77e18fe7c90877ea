"""What is drafted and checked is what a run takes: the printed commands work, and both refuse what a run refuses."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beft.cli.options import PARAMS, parse_changes
from beft.cli.options import read_settings as settings_of
from flows.cli import status_of
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings

Beft = Callable[..., tuple[int, str]]


@pytest.fixture
def beft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Beft:
    """``beft(*arguments)`` in a folder that holds a file of rows and nothing else: its status and all that it says."""
    monkeypatch.chdir(tmp_path)
    rows = [f"this is the text of number {n},{'pos' if n % 2 else 'neg'}" for n in range(300)]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows]) + "\n")

    def run(*arguments: str) -> tuple[int, str]:
        status = status_of(list(arguments))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def printed(said: str) -> list[list[str]]:
    """The arguments of the commands that a draft prints."""
    return [shlex.split(line)[1:] for line in re.findall(r"^  (\S*beft .*)$", said.partition("Look at it")[2], re.M)]


def test_the_commands_that_a_draft_prints_work(beft: Beft, tmp_path: Path) -> None:
    status, said = beft("datasets", "draft", "mine.csv", "--set", "split.draw=3", "--set", "datasets.mine.size=100")
    assert status == 0, said
    init, check, run = printed(said)
    assert (init, run[0]) == (["init"], "run")
    for arguments in (init, check):
        status, said = beft(*arguments)
        assert status == 0, said
    settings = PipelineSettings.read(PARAMS, parse_changes(run[2::2]))
    check_settings(settings, tmp_path)
    assert settings.split.draw == 3
    assert {name: chosen.size for name, chosen in settings.datasets.items()} == {"mine": 100}


def test_a_draft_beside_settings_names_them(beft: Beft, tmp_path: Path) -> None:
    (tmp_path / "my params.yaml").write_text("seed: 5")
    status, said = beft("datasets", "draft", "mine.csv", "--params", "my params.yaml")
    assert status == 0, said
    check, run = printed(said)
    assert check == ["datasets", "check", "mine", "--params", "my params.yaml"]
    assert run == ["run", "--set", "datasets={mine: {}}", "--params", "my params.yaml"]


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (True, "split.gate_rows=5", "split.gate_rows: a decision needs 20 rows or more"),
        (False, "split.gate_rows=5", "split.gate_rows: a decision needs 20 rows or more"),
        (True, "promotion.slices=[lenght]", "Did you mean 'length'"),
        (True, f"tracking.model_prefix={'a' * 250}", "tracking.model_prefix: the registered model of mine"),
        (True, "base.source=./nowhere", "nowhere is no model folder"),
    ],
)
def test_settings_that_a_run_refuses(file: bool, change: str, told: str, beft: Beft, tmp_path: Path) -> None:
    if file:
        PARAMS.write_text("{}")  # it does not name the dataset
    status, said = beft("datasets", "draft", "mine.csv", "--set", change)
    assert (status, told in said) == (2, True), said
    assert not (tmp_path / "data").exists()
    assert beft("datasets", "draft", "mine.csv")[0] == 0
    for dataset in ("mine", "data/datasets/mine.yaml"):
        status, said = beft("datasets", "check", dataset, "--set", change)
        assert (status, told in said) == (2, True), said


def test_slices_may_be_columns_of_other_datasets_of_the_settings(beft: Beft, tmp_path: Path) -> None:
    assert beft("datasets", "draft", "mine.csv", "--name", "other")[0] == 0
    path = tmp_path / "data" / "datasets" / "other.yaml"
    path.write_text(path.read_text().replace("label: label", "label: label\n  keep: [text]", 1))
    PARAMS.write_text("datasets: {other: {}}\npromotion: {slices: [length, text]}")
    status, said = beft("datasets", "draft", "mine.csv")
    assert status == 0, said


def test_a_broken_description_is_replaced(beft: Beft, tmp_path: Path) -> None:
    path = tmp_path / "data" / "datasets" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("title: [")
    PARAMS.write_text("datasets: {mine: {}}")
    assert beft("datasets", "draft", "mine.csv")[0] == 2
    status, said = beft("datasets", "draft", "mine.csv", "--replace")
    assert status == 0, said


def test_both_decisions_are_told_where_they_differ(beft: Beft) -> None:
    change = ("--set", "promotion.confidence=0.99")
    told = r"on 60 gate rows only a gain of \d+\.\d points"
    status, said = beft("datasets", "draft", "mine.csv", *change)
    assert status == 0, said
    assert re.search(rf"^# the decision on a first champion \(evaluate.confidence\): {told} \(6 rows\)", said, re.M)
    assert re.search(rf"^# that on a promotion \(promotion.confidence\): {told} \(8 rows\)", said, re.M)
    assert re.search(rf"^The decision: {told} \(6 rows\)", beft("datasets", "check", "mine")[1], re.M)


def test_without_a_file_the_settings_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    context: Any = SimpleNamespace(obj=SimpleNamespace(read_settings=PipelineSettings.read))
    read = settings_of(context, PARAMS, ["promotion.confidence=0.9"])
    assert isinstance(read, PipelineSettings)
    assert read.promotion.confidence == 0.9
