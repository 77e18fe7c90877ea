"""Deciders of one model on several machines: clocks that differ, and one that dies or is stopped between two moves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.project_files import PROJECT
from tasks.registry.aliases import (
    CHAMPION,
    PREVIOUS,
    RegistryBusyError,
    alias_lock,
    aliases_of,
    history,
    rollback,
)
from tasks.tracking.connection import Connection
from tests.tasks.engine.test_workspace import hides_others
from tests.tasks.registry.conftest import MODEL, move

MACHINE = """
import os, signal, socket, sys, time
from pathlib import Path
from mlflow.tracking import MlflowClient
import tasks.registry.aliases as aliases
from tasks.tracking.connection import connect
from tasks.settings import PipelineSettings

root, registry, model, ahead = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
if ahead:  # another machine: its name and its clock are its own
    socket.gethostname = lambda: "machine-a"
    real_time = time.time
    time.time = lambda: real_time() + ahead
connection = connect(PipelineSettings(), registry)

def before_the_second_move(then):
    real = MlflowClient.set_registered_model_alias
    def set_alias(self, *arguments):
        real(self, *arguments)
        MlflowClient.set_registered_model_alias = real
        then()
    MlflowClient.set_registered_model_alias = set_alias
"""


ALIVE = (
    MACHINE
    + """
import tasks.registry.lease
tasks.registry.lease.BEAT_SECONDS = 0.2
with aliases.alias_lock(connection, model, root):
    print("deciding", flush=True)
    sys.stdin.readline()
"""
)


KILLED = (
    MACHINE
    + """
before_the_second_move(lambda: os.kill(os.getpid(), signal.SIGKILL))
aliases.rollback(connection, root, model, to="2")
"""
)


STALLED = (
    MACHINE
    + """
before_the_second_move(lambda: os.kill(os.getpid(), signal.SIGSTOP))
try:
    aliases.rollback(connection, root, model, to="2")
except aliases.RegistryBusyError as error:
    sys.exit(str(error))
"""
)


HOUR = 3600.0


@contextmanager
def machine(script: str, root: Path, project: Path, *, ahead: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    """A process on another machine, by its name and the offset of its clock in seconds; 0: on this one."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(root), str(project), MODEL, str(ahead)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_holder_that_proc_does_not_show_is_not_taken_for_dead(
    connection: Connection, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(ALIVE, tmp_path / "a", project) as holder:
        assert holder.stdout and holder.stdout.readline() == "deciding\n"
        hides_others(monkeypatch)
        with pytest.raises(RegistryBusyError, match=f"process {holder.pid} on"), alias_lock(connection, MODEL, project):
            pass
        holder.kill()
        holder.wait()
        with alias_lock(connection, MODEL, project):  # it is known to be dead
            pass


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_clocks_that_differ_free_no_model(
    connection: Connection, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The holder's clock is an hour ahead, or behind: whoever comes second is refused as long as it is at work."""
    monkeypatch.setattr("tasks.registry.lease.LEASE_SECONDS", 30.0)
    with machine(ALIVE, tmp_path / "a", project, ahead=ahead) as holder:
        assert holder.stdout and holder.stdout.readline() == "deciding\n"
        with pytest.raises(RegistryBusyError, match="on machine-a"), alias_lock(connection, MODEL, project):
            pass


def test_a_holder_that_shows_itself_no_more_is_succeeded(
    connection: Connection, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine died: its tag is watched for a while, whatever time it names."""
    monkeypatch.setattr("tasks.registry.lease.LEASE_SECONDS", 1.0)
    with machine(ALIVE, tmp_path / "a", project, ahead=HOUR) as holder:
        assert holder.stdout and holder.stdout.readline() == "deciding\n"
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with alias_lock(connection, MODEL, project):
            assert time.monotonic() - began > 0.9


def test_moves_that_others_overtook_are_not_made_after_a_crash(
    connection: Connection, project: Path, tmp_path: Path
) -> None:
    """The aliases look as they did before the crash, since somebody promoted and rolled back meanwhile."""
    move(connection, project, champion="1", previous="3")
    with machine(KILLED, tmp_path / "a", project) as killed:
        assert killed.wait() == -signal.SIGKILL
    assert aliases_of(connection, MODEL) == {CHAMPION: "1", PREVIOUS: "1"}
    rollback(connection, tmp_path / "b", MODEL, to="3")
    assert rollback(connection, tmp_path / "b", MODEL) == "1"
    with alias_lock(connection, MODEL, tmp_path / "a"):
        assert aliases_of(connection, MODEL) == {CHAMPION: "1", PREVIOUS: "3"}
    [entry] = history(connection, tmp_path / "a", MODEL)
    assert (entry["finished"], entry["given_up"]) == (False, True)
    with alias_lock(connection, MODEL, tmp_path / "a") as turn:  # it is closed, and stays so
        assert turn.finish_moves() == []


def test_whoever_lost_the_model_moves_nothing_more(
    connection: Connection, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is stopped between two moves for so long that another one takes over, and then goes on."""
    monkeypatch.setattr("tasks.registry.lease.LEASE_SECONDS", 1.0)
    move(connection, project, champion="1")
    with machine(STALLED, tmp_path / "a", project, ahead=-HOUR) as stalled:
        os.waitid(os.P_PID, stalled.pid, os.WSTOPPED | os.WNOWAIT)
        assert aliases_of(connection, MODEL) == {CHAMPION: "1", PREVIOUS: "1"}
        rollback(connection, project, MODEL, to="3")
        stalled.send_signal(signal.SIGCONT)
        _, complained = stalled.communicate()
    assert "another process is deciding" in complained or "were moved by another process" in complained
    assert stalled.returncode == 1
    assert aliases_of(connection, MODEL) == {CHAMPION: "3", PREVIOUS: "1"}
    with alias_lock(connection, MODEL, tmp_path / "a"):  # nor later
        assert aliases_of(connection, MODEL) == {CHAMPION: "3", PREVIOUS: "1"}
