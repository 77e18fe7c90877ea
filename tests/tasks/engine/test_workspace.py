"""One run at a time writes into a workspace; a dead one does not stand in the way."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from beft.files import read_json, write_json, write_text
from tasks.engine.workspace import HIDDEN, Workspace, WorkspaceBusyError, process_start

PROJECT = Path(__file__).resolve().parents[3]
HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from tasks.engine.workspace import Workspace\n"
    "with Workspace(Path(sys.argv[1])).locked():\n"
    "    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def hold(root: Path, *before: str, program: str = HOLD) -> "subprocess.Popen[str]":
    """Another process that holds the workspace until its input ends; ``before`` is a command that starts it."""
    child = subprocess.Popen(
        [*before, sys.executable, "-c", program, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )
    assert child.stdout
    assert child.stdout.readline() == "held\n"
    return child


def holder(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "runs" / "lock.json").read_text())
    return found


def test_a_live_run_is_not_disturbed(workspace: Workspace) -> None:
    with hold(workspace.root) as other:
        with pytest.raises(WorkspaceBusyError) as error, workspace.locked():
            pass
        assert f"process {other.pid}" in str(error.value)
        assert str(workspace.root) in str(error.value)
        assert error.value.exit_status == 1
        assert holder(workspace.root)["pid"] == other.pid
        other.communicate("")
    with workspace.locked():
        assert holder(workspace.root)["pid"] == os.getpid()


def test_a_killed_run_is_taken_over(workspace: Workspace) -> None:
    with hold(workspace.root) as other:
        other.kill()
    leftover = workspace.runs / "steps" / ".train-imdb-0011.tmp-x" / "half"
    write_text(leftover, "half")
    with workspace.locked():
        assert holder(workspace.root)["pid"] == os.getpid()
        assert not leftover.parent.exists()


def hides_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc mounted with hidepid: only this process is to be seen there."""
    real = Path.read_text

    def reads(path: Path, *arguments: Any, **keywords: Any) -> str:
        if (
            path.parts[:2] == ("/", "proc")
            and path.name == "stat"
            and path.parent.name not in ("self", str(os.getpid()))
        ):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", reads)


def test_a_process_that_is_hidden_is_not_gone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(workspace.root) as other:
        hides_others(monkeypatch)
        assert process_start(other.pid) == HIDDEN
        other.kill()
        other.wait()
        assert process_start(other.pid) is None
    assert process_start(os.getpid()) not in (None, HIDDEN)


def test_a_zombie_is_dead(workspace: Workspace) -> None:
    other = hold(workspace.root)
    other.kill()  # and not waited for yet
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{other.pid}").exists()
    with workspace.locked():
        pass
    other.communicate()


def test_the_same_number_of_a_later_process_is_not_the_same(workspace: Workspace) -> None:
    """The number of a dead run is given to some other process: this one, started at another time."""
    workspace.runs.mkdir()
    stale = {"pid": os.getpid(), "process_start": "an-earlier-boot:17", "host": socket.gethostname(), "since": "then"}
    write_json(workspace.runs / "lock.json", stale)
    with workspace.locked():
        assert holder(workspace.root)["process_start"] == process_start(os.getpid())


def test_the_lock_is_not_taken_twice_by_one_process(workspace: Workspace) -> None:
    with workspace.locked(), pytest.raises(WorkspaceBusyError), workspace.locked():
        pass


def test_what_a_container_left_that_died_stands_in_nobodys_way(workspace: Workspace) -> None:
    workspace.runs.mkdir()
    write_json(workspace.runs / "lock.json", {"pid": 1, "process_start": "x", "host": "elsewhere", "since": "then"})
    with workspace.locked():
        assert holder(workspace.root)["pid"] == os.getpid()


def test_a_run_in_a_container_is_seen_while_it_lives_and_forgotten_when_it_is_killed(workspace: Workspace) -> None:
    """Its own process numbers and host name, as in a container; the folder is the same."""
    container = ["unshare", "--pid", "--uts", "--fork", "--kill-child"]
    if subprocess.run([*container, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no right to make namespaces here")
    with hold(workspace.root, *container, "sh", "-c", 'hostname elsewhere; exec "$0" "$@"') as other:
        with pytest.raises(WorkspaceBusyError, match=r"process 1 on elsewhere.*; wait for it"), workspace.locked():
            pass
        for process in psutil.Process(other.pid).children(recursive=True):
            process.kill()
        other.wait()
    assert holder(workspace.root)["host"] == "elsewhere"  # it had no time to say that it ended
    with workspace.locked():
        pass


def test_a_child_that_outlives_a_killed_run_does_not_hold_its_lock(workspace: Workspace) -> None:
    program = HOLD.replace("import sys\n", "import subprocess, sys\n").replace(
        "    sys.stdout.write",
        "    subprocess.Popen(['sleep', '20'], stdin=subprocess.DEVNULL, stdout=2)\n    sys.stdout.write",
    )
    with hold(workspace.root, program=program) as other:
        other.kill()
    with workspace.locked():
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x"}'])
def test_a_torn_lock_file_is_none(workspace: Workspace, text: str) -> None:
    workspace.runs.mkdir()
    host = f', "host": "{socket.gethostname()}"}}'
    (workspace.runs / "lock.json").write_text(text.replace("}", host) if "pid" in text else text)
    with workspace.locked():
        pass


def test_an_error_gives_the_lock_back(workspace: Workspace) -> None:
    with pytest.raises(ValueError, match="inside"), workspace.locked():
        raise ValueError("inside")
    with workspace.locked():
        pass


def test_of_two_that_start_at_once_one_gets_it(tmp_path: Path) -> None:
    racer = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tasks.engine.workspace import Workspace, WorkspaceBusyError\n"
        "try:\n"
        "    with Workspace(Path(sys.argv[1])).locked():\n"
        "        sys.stdout.write('got it'); sys.stdout.flush(); sys.stdin.read()\n"
        "except WorkspaceBusyError:\n"
        "    sys.stdout.write('refused')\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", racer, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )
        for _ in range(4)
    ]
    said = []
    for process in racers:  # read what each says before any of them ends
        assert process.stdout
        said.append(process.stdout.read(6))
    for process in racers:
        process.communicate("")
    assert sorted(said) == ["got it", "refuse", "refuse", "refuse"]


def test_a_run_has_a_record_and_links_to_its_steps(workspace: Workspace) -> None:
    step = workspace.runs / "steps" / "train-imdb-0011"
    write_text(step / "adapter" / "beft.json", "{}")
    fingerprint = "ab" * 32
    for _ in range(2):
        folder = workspace.record_run(fingerprint, {"status": "running"}, {"train/imdb": step, "merge": step})
        workspace.point_latest(fingerprint)
    assert folder.name == "ab" * 8
    assert read_json(folder / "run.json") == {"status": "running"}
    assert (workspace.runs / "latest" / "train" / "imdb" / "adapter" / "beft.json").read_text() == "{}"
    assert (folder / "merge").resolve() == step
    assert not (folder / "merge").readlink().is_absolute()


def test_a_patient_run_waits_for_the_one_before_it(workspace: Workspace) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tasks.engine.workspace import Workspace\n"
        "with Workspace(Path(sys.argv[1])).locked():\n"
        "    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(workspace.root)],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout and other.stdin and other.stdout.readline() == b"held\n"
        with pytest.raises(WorkspaceBusyError), workspace.locked(patience=0.1):
            pass
        timer = threading.Timer(0.5, other.stdin.close)
        timer.start()
        with workspace.locked(patience=30):
            assert holder(workspace.root)["pid"] == os.getpid()
        timer.join()


def test_what_a_killed_run_left_half_written_anywhere_is_cleared_away(workspace: Workspace) -> None:
    """Of a checkpoint, of a run's record, of a link, and a folder that was renamed aside to be replaced."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom beft.files import write_text\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "write_text(Path(sys.argv[1], sys.argv[2]), 'half')\n"
    )
    for name in ("runs/checkpoints/train-mine-00/pass.safetensors", "runs/0011/run.json"):
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        subprocess.run([sys.executable, "-c", program, str(workspace.root), name], env=environment, check=False)
    (workspace.runs / ".latest.tmp-17").symlink_to("0011")
    write_text(workspace.root / "reports" / ".table1.old-00ff" / "table.md", "the one before")
    assert len(list(workspace.root.rglob(".*.tmp-*"))) == 3
    with workspace.locked():
        assert not list(workspace.root.rglob(".*.tmp-*"))
        assert (workspace.root / "reports" / "table1" / "table.md").read_text() == "the one before"
