"""Aliases of a registered model: moved together, journaled before, finished after a crash, one decider at a time."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from beft.errors import InputError
from flows.cli import status_of
from tasks.aliases import (
    CHALLENGER,
    CHAMPION,
    MOVED,
    MOVES,
    PREVIOUS,
    RegistryBusyError,
    aliases_of,
    deciding,
    history,
    move_aliases,
    rollback,
)
from tasks.connection import Connection, connect
from tasks.fingerprint import PROJECT
from tasks.journal import journal_of, read_journal
from tasks.settings import PipelineSettings

MODEL = "beft-base-films"


@pytest.fixture
def connection(project: Path) -> Connection:
    """A registry with three versions of a model, without any alias."""
    found = connect(PipelineSettings(), project)
    found.client.create_registered_model(MODEL)
    for _ in range(3):
        found.client.create_model_version(MODEL, source=(project / "nothing").as_uri())
    return found


def move(connection: Connection, root: Path, **moves: str | None) -> None:
    move_aliases(connection, journal_of(root), MODEL, moves, subject=sorted(moves.items()), reason="a test")


def test_what_is_moved_stands_in_the_journal_before_and_after(connection: Connection, project: Path) -> None:
    move(connection, project, challenger="1", champion="1")
    assert aliases_of(connection, MODEL) == {CHALLENGER: "1", CHAMPION: "1"}
    before, after = read_journal(journal_of(project))
    assert (before["kind"], after["kind"]) == (MOVES, MOVED)
    assert before["moves"] == {CHALLENGER: {"from": None, "to": "1"}, CHAMPION: {"from": None, "to": "1"}}
    assert after["of"] == before["id"]
    move(connection, project, challenger="1", champion="1")  # nothing to do, nothing to say
    assert len(read_journal(journal_of(project))) == 2


@pytest.mark.parametrize("made", [0, 1])
def test_moves_that_a_crash_cut_short_are_finished(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    move(connection, project, champion="1")
    client, calls = connection.client, 0
    real = type(client).set_registered_model_alias

    def dies(self: Any, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > made:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(type(client), "set_registered_model_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            move(connection, project, champion="2", previous="1")
    # Whatever was moved, the champion is still a whole one, and the journal says that something is open.
    assert aliases_of(connection, MODEL)[CHAMPION] == "1"
    assert [entry["finished"] for entry in history(connection, journal_of(project), MODEL)] == [True, False]
    with deciding(connection, MODEL, project):
        assert aliases_of(connection, MODEL) == {CHAMPION: "2", PREVIOUS: "1"}
    assert all(entry["finished"] for entry in history(connection, journal_of(project), MODEL))


def test_an_alias_that_somebody_moved_since_stays(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(connection, project, champion="1")

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(connection.client), "set_registered_model_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            move(connection, project, champion="2")
    connection.client.set_registered_model_alias(MODEL, CHAMPION, "3")
    with deciding(connection, MODEL, project):
        assert aliases_of(connection, MODEL) == {CHAMPION: "3"}


def test_rollback_and_back_again(connection: Connection, project: Path) -> None:
    move(connection, project, champion="1")
    move(connection, project, champion="2", previous="1")
    assert rollback(connection, project, MODEL, reason="it answers nonsense") == "1"
    assert aliases_of(connection, MODEL) == {CHAMPION: "1", PREVIOUS: "2"}
    assert rollback(connection, project, MODEL) == "2"
    assert rollback(connection, project, MODEL, to="3") == "3"
    assert aliases_of(connection, MODEL) == {CHAMPION: "3", PREVIOUS: "2"}
    reasons = [entry["reason"] for entry in history(connection, journal_of(project), MODEL)]
    assert reasons[2:] == ["it answers nonsense", "rolled back from version 1", "rolled back from version 2"]


def test_rollbacks_that_cannot_be(connection: Connection, project: Path) -> None:
    with pytest.raises(InputError, match="no previous champion"):
        rollback(connection, project, MODEL)
    with pytest.raises(InputError, match=f"Did you mean '{MODEL}'"):
        rollback(connection, project, "beft-base-film")
    move(connection, project, champion="1")
    with pytest.raises(InputError, match="champion already"):
        rollback(connection, project, MODEL, to="1")
    with pytest.raises(InputError, match=r"unknown version .* '7'"):
        rollback(connection, project, MODEL, to="7")


HOLD = """
import sys
from pathlib import Path
from tasks.aliases import deciding
from tasks.connection import connect
from tasks.settings import PipelineSettings
root = Path(sys.argv[1])
with deciding(connect(PipelineSettings(), Path(sys.argv[2])), sys.argv[3], root):
    print("deciding", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_of_two_that_decide_at_once_one_is_refused(
    connection: Connection, project: Path, tmp_path: Path, elsewhere: bool
) -> None:
    """In the same workspace, and in another one that shares the registry."""
    root = tmp_path / "other" if elsewhere else project
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), str(project), MODEL],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout and other.stdout.readline() == b"deciding\n"
        with pytest.raises(RegistryBusyError, match=f"process {other.pid} on"), deciding(connection, MODEL, project):
            pass
        other.kill()
    with deciding(connection, MODEL, project):  # a dead one holds nothing
        pass


def test_on_the_command_line(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    (project / "params.yaml").write_text("{}\n")
    move(connection, project, champion="1")
    move(connection, project, champion="2", previous="1")
    assert status_of(["rollback", MODEL, "--reason", "it answers nonsense"]) == 0
    assert capsys.readouterr().out == f"{MODEL}: champion 1, previous 2\n"
    assert status_of(["history"]) == 0
    assert capsys.readouterr().out == f"{MODEL}: champion 1, previous 2\n"
    assert status_of(["history", MODEL]) == 0
    shown = capsys.readouterr().out
    assert "champion: 2 → 1" in shown
    assert "it answers nonsense" in " ".join(shown.split())
    assert status_of(["history", MODEL, "--json"]) == 0
    assert capsys.readouterr().out.count('"alias moves"') == 3
    assert status_of(["rollback", "beft-base-film"]) == 2
    assert "Did you mean" in capsys.readouterr().err
