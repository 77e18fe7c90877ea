"""DVC behind one module, on real small workspaces."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from beft.errors import BeftError, InputError
from beft.files import read_json, write_json, write_text
from beft.models.reference import resolve_base
from tasks.engine.import_closure import import_closure
from tasks.pipeline import STEPS, find_step
from tasks.project_files import BASE_RECORD
from tasks.settings import PipelineSettings
from tasks.versioning import dvc as versioning
from tasks.versioning.dvc import data_versions, has_stages, is_up_to_date, push, reproduce, stage_record
from tasks.versioning.dvc_lock import forget_dead_holders, lock_holders
from tests.support.dvc_workspace import PROJECT, STAGE, dvc_workspace
from tests.support.tiny_bases import save_base
from tests.support.waiting import wait_until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with DVC stages and no git."""
    return dvc_workspace(tmp_path / "workspace")


def ran(root: Path) -> list[str]:
    path = root / "ran.txt"
    return path.read_text().split() if path.is_file() else []


def test_stages_run_once_are_versioned_and_pushed_without_git(root: Path) -> None:
    assert has_stages(root)
    for _ in range(2):
        reproduce(root, ["prepare@imdb"])
    assert ran(root) == ["data/raw/imdb", "data/prepared/imdb"]

    version = data_versions(root, ["imdb"])["imdb"]
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    assert version.dvc
    assert version.raw_md5 == lock["fetch@imdb"]["outs"][0]["md5"]
    assert version.prepared_md5 == lock["prepare@imdb"]["outs"][0]["md5"]
    assert (version.prepared / "rows.txt").read_text() == "7"

    for _ in range(2):
        push(root, ["fetch@imdb", "prepare@imdb"])
        [kept] = (root / ".dvc-remote" / "files" / "md5" / "8f").iterdir()  # the rows
        kept.unlink()  # a remote loses a file, which the next push brings back
    push(root, ["fetch@imdb", "prepare@imdb"])
    for folder in (version.raw, version.prepared, root / ".dvc" / "cache"):
        shutil.rmtree(folder)
    done = subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=root, capture_output=True, text=True)
    assert (version.prepared / "rows.txt").read_text() == "7", done.stderr

    record, raw = stage_record(root, "prepare", "imdb"), stage_record(root, "fetch", "imdb")
    assert record is not None and raw is not None
    assert record.key == "prepare/imdb" and list(record.outputs) == ["rows.txt"]
    assert record.fingerprint == raw.fingerprint  # the same contents
    assert stage_record(root, "fetch", "sst2") is None


def test_what_is_up_to_date_is_known_without_making_anything(root: Path) -> None:
    stages, made = ["fetch@imdb", "prepare@imdb"], ["data/raw/imdb", "data/prepared/imdb"]
    assert not is_up_to_date(root, stages)
    reproduce(root, ["prepare@imdb"])
    assert is_up_to_date(root, stages)
    settings = (root / "params.yaml").read_text()
    write_text(root / "params.yaml", settings.replace("size: 7", "size: 9"))
    assert not is_up_to_date(root, stages)
    write_text(root / "params.yaml", settings)
    assert is_up_to_date(root, stages)
    (root / "data" / "prepared" / "imdb" / "rows.txt").unlink()
    assert not is_up_to_date(root, stages)
    assert ran(root) == made


def test_a_workspace_under_git_is_asked_again(root: Path) -> None:
    local = root / ".dvc" / "config.local"
    versioning.configure_no_scm(root)
    assert "no_scm = true" in local.read_text()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    versioning.configure_no_scm(root)
    assert "no_scm" not in local.read_text()


def test_a_workspace_in_a_folder_of_a_repository_is_under_git(root: Path, tmp_path: Path) -> None:
    """DVC works with git there, and its commands for experiments need it; not where git ignores the folder."""
    local = root / ".dvc" / "config.local"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    versioning.configure_no_scm(root)
    assert not local.exists()
    reproduce(root, ["fetch@imdb"])
    assert ran(root) == ["data/raw/imdb"]
    write_text(tmp_path / ".gitignore", "*\n")
    versioning.configure_no_scm(root)
    assert "no_scm = true" in local.read_text()


def test_the_error_of_a_stage_is_the_callers(root: Path) -> None:
    stage = """
        from tasks.engine.commands import write_error_file
        from beft.errors import InputError
        write_error_file(InputError("column 'text' is missing; the file has: label"))
        raise SystemExit(2)
    """
    write_text(root / "stage.py", textwrap.dedent(stage))
    with pytest.raises(InputError, match=r"^column 'text' is missing; the file has: label$"):
        reproduce(root, ["fetch@imdb"])


def test_any_other_failure_says_what_dvc_said(root: Path) -> None:
    with pytest.raises(BeftError, match=r"dvc repro fetch@imbd failed: .*imbd"):
        reproduce(root, ["fetch@imbd"])
    with pytest.raises(BeftError, match=r"(?s)nowhere.*versioning.push to false"):
        push(root, [], "nowhere")


def test_a_busy_dvc_is_waited_for(root: Path) -> None:
    """Another process holds the lock that DVC itself takes: it is named, and waited for."""
    lock = root / ".dvc" / "tmp" / "lock"
    lock.parent.mkdir(parents=True)
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'w')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdin and other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(BeftError, match=rf"process {other.pid} \(.*fcntl.*holds DVC's lock in {root}: wait for it"):
            reproduce(root, ["fetch@imdb"], patience=0)
        assert ran(root) == []
        threading.Timer(2, other.stdin.close).start()
        started = time.monotonic()
        reproduce(root, ["fetch@imdb"])
        assert time.monotonic() - started > 1.5
    assert ran(root) == ["data/raw/imdb"]


def test_a_running_stage_is_named_by_what_it_works_on(root: Path) -> None:
    """While a stage runs, DVC keeps no lock but a list of paths; another DVC that wants one of them is told whose."""
    running = root / "running"
    begin = "import pathlib, time\npathlib.Path('running').touch()\ntime.sleep(8)\n"
    write_text(root / "stage.py", f"{begin}{STAGE}")
    versioning.configure_no_scm(root)
    command = [sys.executable, "-m", "dvc", "repro", "fetch@imdb"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    other = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with other:
        wait_until(running.exists, 60, process=other)  # before, DVC takes and drops its locks several times
        [holder] = lock_holders(root)
        assert holder.startswith(f"process {other.pid} (") and "dvc repro fetch@imdb" in holder
        other.kill()
    assert lock_holders(root) == []


def test_what_a_container_left_that_died_in_a_stage_is_no_lock(root: Path) -> None:
    """Its number is now that of another process, as in a container that is started again: here, of this one."""
    dead = {"pid": os.getpid(), "cmd": "dvc repro fetch@imdb"}
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    entries = {"write": {str(root / "data/raw/imdb"): dead}, "read": {str(root / "stage.py"): [dead]}}
    write_json(rwlock, entries)
    reproduce(root, ["fetch@imdb"], patience=0)
    assert ran(root) == ["data/raw/imdb"]


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_living_holder_is_kept_whatever_the_clocks_say(root: Path, ahead: int) -> None:
    """The disk's machine has another time, or the clock was set since."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "repro", "fetch@imdb"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as holder:
        living = {"pid": holder.pid, "cmd": "/usr/bin/dvc repro fetch@imdb"}
        dead = living | {"cmd": "/usr/bin/dvc repro prepare@imdb"}
        rwlock = root / ".dvc" / "tmp" / "rwlock"
        write_json(rwlock, {"write": {"a": living, "b": dead}, "read": {"c": [living, dead], "d": [dead]}})
        then = time.time() + ahead
        os.utime(rwlock, (then, then))
        forget_dead_holders(root)
        holder.communicate()
    assert json.loads(rwlock.read_text()) == {"write": {"a": living}, "read": {"c": [living]}}


def test_a_list_of_locks_that_a_killed_dvc_left_half_written_is_none(root: Path) -> None:
    write_text(root / ".dvc" / "tmp" / "rwlock", '{"write": {"/')
    reproduce(root, ["fetch@imdb"], patience=0)
    assert ran(root) == ["data/raw/imdb"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_dvc_and_its_stage_end_with_the_run_that_started_them(root: Path, number: signal.Signals) -> None:
    begin = "import os, pathlib, time\npathlib.Path('running').write_text(f'{os.getpid()}')\ntime.sleep(60)\n"
    write_text(root / "stage.py", f"{begin}{STAGE}")
    program = "import sys; from pathlib import Path; from tasks.versioning.dvc import reproduce; " \
        "reproduce(Path(sys.argv[1]), ['fetch@imdb'])"  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    run = subprocess.Popen([sys.executable, "-c", program, str(root)], env=environment, stderr=subprocess.DEVNULL)
    with run:
        wait_until(lambda: (root / "running").exists() and (root / "running").read_text(), 60, process=run)
        started = psutil.Process(run.pid).children(recursive=True)
        assert int((root / "running").read_text()) in {process.pid for process in started}
        run.send_signal(number)
    assert not psutil.wait_procs(started, 10)[1]
    write_text(root / "stage.py", STAGE)
    reproduce(root, ["fetch@imdb"])  # no lock of theirs is in the way
    assert ran(root) == ["data/raw/imdb"]


def test_two_processes_at_once_both_get_through(root: Path) -> None:
    program = "import sys; from pathlib import Path; from tasks.versioning.dvc import reproduce; " \
        "reproduce(Path(sys.argv[1]), [sys.argv[2]])"  # fmt: skip
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(root), stage], env=os.environ | {"PYTHONPATH": str(PROJECT)}
        )
        for stage in ("fetch@imdb", "fetch@sst2")
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(ran(root)) == ["data/raw/imdb", "data/raw/sst2"]


@pytest.mark.parametrize("name", [name for name in STEPS if name != "register"])
def test_a_stage_watches_what_its_step_declares(name: str) -> None:
    """dvc.yaml and the declarations of the steps say the same: inputs, settings, source."""
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    step = find_step(name)
    stage = stages[name].get("do", stages[name])
    assert ("foreach" in stages[name]) == step.per_dataset
    sections = {section.replace("{dataset}", "${key}") for section in step.settings}
    whole = {name for name in sections if not any(name.startswith(f"{other}.") for other in sections)}
    assert set(stage.get("params", [])) == whole

    watched = set(stage["deps"])
    for read in step.reads:
        folder = versioning.dvc_folder(read).as_posix()
        assert any(each.startswith(folder) for each in watched), read
    module = Path(inspect.getfile(step.function)).resolve()
    packages = re.compile(r"tasks/(?!engine/)\w+/(?!__init__)")  # the others decide when it runs, not what it computes
    source = {path for path in import_closure(module, PROJECT) if packages.match(path)}
    below = {path for path in source if any(path.startswith(f"{each}/") for each in watched)}
    assert (source - below) | set(step.source) <= watched
    assert {"beft", "beft/datasets"} & watched
    assert (str(BASE_RECORD) in watched) == step.computes


def test_every_step_but_register_is_a_stage() -> None:
    stages = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert set(stages) == {*STEPS, "base"} - {"register"}


def test_a_stage_that_computes_runs_again_when_files_of_a_local_base_change(
    tmp_path: Path, tiny: Callable[..., Any]
) -> None:
    """The stage of the base as it is, and one that depends on it as those that train do; not where nothing changed."""
    root = dvc_workspace(tmp_path / "workspace")
    weights = save_base(root / "base", tiny("bert")) / "model.safetensors"
    write_text(root / "params.yaml", "base: {source: base}\n")
    base = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]["base"]
    train = {"cmd": "python stage.py trained x", "deps": ["stage.py", str(BASE_RECORD)], "outs": ["trained"]}
    write_text(root / "dvc.yaml", yaml.safe_dump({"stages": {"base": base, "train": train}}))
    for _ in range(2):
        reproduce(root, ["train"])
        assert ran(root) == ["trained"]
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    for _ in range(2):
        reproduce(root, ["train"])
        assert ran(root) == ["trained", "trained"]
    reference = resolve_base(str(root / "base"))
    assert read_json(root / BASE_RECORD) == {"sha256": reference.sha256, "contents": reference.contents}


def test_the_lock_holds_the_data_alone_and_is_that_of_the_source() -> None:
    """What is committed is fetch and prepare, made by the files as they are: a clone's first run changes nothing."""
    stages = yaml.safe_load((PROJECT / "dvc.lock").read_text())["stages"]
    datasets = PipelineSettings.read(PROJECT / "params.yaml").datasets
    assert set(stages) >= {f"{step}@{name}" for step in ("fetch", "prepare") for name in datasets}
    status = [sys.executable, "-m", "dvc", "status", "--json", *stages]
    said = json.loads(subprocess.run(status, cwd=PROJECT, check=True, capture_output=True, text=True).stdout)
    changed = [part.get("changed deps", {}) for parts in said.values() for part in parts if isinstance(part, dict)]
    assert not {path for paths in changed for path in paths if not path.startswith("data/raw/")}
