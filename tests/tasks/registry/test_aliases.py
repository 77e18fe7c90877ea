"""Aliases of a registered model: moved together, journaled before, finished after a crash, one decider at a time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from beft.errors import InputError
from flows.cli import status_of
from tasks.project_files import PROJECT
from tasks.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    MOVED,
    MOVES,
    PREVIOUS,
    ROLLED_BACK,
    RegistryBusyError,
    alias_lock,
    aliases_of,
    history,
    rollback,
)
from tasks.registry.journal import append_entry, journal_path, read_journal
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect, every
from tests.tasks.registry.conftest import MODEL, move


def test_what_is_moved_stands_in_the_journal_before_and_after(connection: Connection, project: Path) -> None:
    move(connection, project, challenger="1", champion="1")
    assert aliases_of(connection, MODEL) == {CHALLENGER: "1", CHAMPION: "1"}
    before, after = read_journal(journal_path(project))
    assert (before["kind"], after["kind"]) == (MOVES, MOVED)
    assert before["moves"] == {CHALLENGER: {"from": None, "to": "1"}, CHAMPION: {"from": None, "to": "1"}}
    assert after["of"] == before["id"]
    move(connection, project, challenger="1", champion="1")  # nothing to do, nothing to say
    assert len(read_journal(journal_path(project))) == 2


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
    assert [entry["finished"] for entry in history(connection, project, MODEL)] == [True, False]
    with alias_lock(connection, MODEL, project):
        assert aliases_of(connection, MODEL) == {CHAMPION: "2", PREVIOUS: "1"}
    assert all(entry["finished"] for entry in history(connection, project, MODEL))


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
    with alias_lock(connection, MODEL, project):
        assert aliases_of(connection, MODEL) == {CHAMPION: "3"}


def test_rollback_and_back_again(connection: Connection, project: Path) -> None:
    move(connection, project, champion="1")
    move(connection, project, champion="2", previous="1")
    assert rollback(connection, project, MODEL, reason="it answers nonsense") == "1"
    assert aliases_of(connection, MODEL) == {CHAMPION: "1", PREVIOUS: "2"}
    assert rollback(connection, project, MODEL) == "2"
    assert rollback(connection, project, MODEL, to="3") == "3"
    assert aliases_of(connection, MODEL) == {CHAMPION: "3", PREVIOUS: "2"}
    reasons = [entry["reason"] for entry in history(connection, project, MODEL)]
    assert reasons[2:] == ["it answers nonsense", "rolled back from version 1", "rolled back from version 2"]


def test_the_version_that_a_rollback_took_out_of_use_says_so(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tagged() -> dict[str, str]:
        found = {version: connection.client.get_model_version(MODEL, version).tags for version in ("1", "2", "3")}
        return {version: tags[ROLLED_BACK] for version, tags in found.items() if ROLLED_BACK in tags}

    rollback(connection, project, MODEL, to="1")  # there was no champion
    assert tagged() == {}
    move(connection, project, champion="2", previous="1")
    rollback(connection, project, MODEL, reason="it answers nonsense")
    [(version, said)] = tagged().items()
    assert version == "2"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC: it answers nonsense", said)
    rollback(connection, project, MODEL)  # undoes the first
    assert tagged().keys() == {"1"}

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(connection.client), "set_registered_model_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            rollback(connection, project, MODEL)
    with alias_lock(connection, MODEL, project) as turn:  # finishes the moves
        assert turn.aliases == {CHAMPION: "1", PREVIOUS: "2"}
    assert tagged().keys() == {"2"}


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
from tasks.registry.aliases import alias_lock
from tasks.tracking.connection import connect
from tasks.settings import PipelineSettings
root = Path(sys.argv[1])
with alias_lock(connect(PipelineSettings(), Path(sys.argv[2])), sys.argv[3], root):
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
        with pytest.raises(RegistryBusyError, match=f"process {other.pid} on"), alias_lock(connection, MODEL, project):
            pass
        other.kill()
    with alias_lock(connection, MODEL, project):  # a dead one holds nothing
        pass


def test_more_models_than_a_page_of_mlflow_holds(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"beft-base-{number:03}" for number in range(101)]
    for name in names:
        connection.client.create_registered_model(name)
    monkeypatch.chdir(project)
    (project / "params.yaml").write_text("{}\n")
    assert status_of(["history"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: no alias" for name in [*names, MODEL]]
    with pytest.raises(InputError, match=f"Did you mean '{MODEL}'"):
        aliases_of(connection, "beft-base-film")


def test_more_runs_and_versions_than_a_page(connection: Connection) -> None:
    for _ in range(5):
        connection.client.create_run(connection.experiment)
    assert len(every(connection.client.search_runs, [connection.experiment], max_results=2)) == 5
    assert len(every(connection.client.search_model_versions, f"name = '{MODEL}'", max_results=2)) == 3


def test_an_unfinished_move_of_an_older_version_is_finished_unless_others_came_after_it(
    connection: Connection, project: Path, tmp_path: Path
) -> None:
    """The journals of older versions of beft have no sequence numbers."""
    changes = {CHAMPION: {"from": None, "to": "2"}}
    for root in (project, tmp_path / "b"):
        append_entry(journal_path(root), MOVES, str(root), model=MODEL, moves=changes, reason="a test", who="somebody")
    with alias_lock(connection, MODEL, project) as turn:
        assert turn.aliases == {CHAMPION: "2"}
    connection.client.delete_registered_model_alias(MODEL, CHAMPION)
    with alias_lock(connection, MODEL, tmp_path / "b") as turn:
        assert turn.aliases == {}


def cut_short(connection: Connection, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move to champion 2, of a process that dies before it."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(connection.client), "set_registered_model_alias", dies)
        with pytest.raises(KeyboardInterrupt):
            move(connection, root, champion="2")


def test_moves_of_one_registry_are_not_finished_in_another(
    connection: Connection, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One workspace, two registries that have a model of the same name."""
    root = tmp_path / "workspace"
    shutil.copytree(project, tmp_path / "other")
    other = connect(PipelineSettings(), tmp_path / "other")
    cut_short(connection, root, monkeypatch)
    with alias_lock(other, MODEL, root) as turn:
        assert turn.aliases == {}
    assert history(other, root, MODEL) == []
    move(other, root, champion="2")  # the same move, the first one there too
    assert [entry["finished"] for entry in history(other, root, MODEL)] == [True]
    with alias_lock(connection, MODEL, root) as turn:
        assert turn.aliases == {CHAMPION: "2"}
    assert [entry["finished"] for entry in history(connection, root, MODEL)] == [True]


def test_moves_of_a_deleted_model_are_not_finished_on_a_later_one_of_its_name(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(connection, project, monkeypatch)
    connection.client.delete_registered_model(MODEL)
    connection.client.create_registered_model(MODEL)
    for _ in range(2):
        connection.client.create_model_version(MODEL, source=(project / "nothing").as_uri())
    with alias_lock(connection, MODEL, project) as turn:
        assert turn.aliases == {}


def test_moves_are_finished_in_a_project_that_was_renamed(
    connection: Connection, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(connection, project, monkeypatch)
    renamed = project.rename(project.with_name("renamed"))
    with alias_lock(connect(PipelineSettings(), renamed), MODEL, renamed) as turn:
        assert turn.aliases == {CHAMPION: "2"}


def test_an_unfinished_move_of_an_older_version_is_left_alone_where_it_may_be_of_another_registry(
    connection: Connection, tmp_path: Path
) -> None:
    changes = {CHAMPION: {"from": None, "to": "2"}}
    append_entry(journal_path(tmp_path / "b"), MOVES, "a", model=MODEL, moves=changes, reason="a test", who="somebody")
    with alias_lock(connection, MODEL, tmp_path / "b") as turn:
        assert turn.aliases == {}


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
    assert status_of(["history", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"model": MODEL, "aliases": {"champion": "1", "previous": "2"}}
    ]
    assert status_of(["rollback", "beft-base-film"]) == 2
    assert "Did you mean" in capsys.readouterr().err
