"""DVC behind one module: make the data through its stages, push them, and say which version they are.

DVC runs as a command in the workspace's folder: its library works on the process's current one. One call at a time in
a process; when another process holds DVC's own lock, it is tried again for a while.
"""

import logging
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from beft.commands import own_command
from beft.errors import BeftError
from beft.files import sha256_file, write_text
from tasks.engine.commands import run_command
from tasks.engine.fingerprint import contents, contents_sha256
from tasks.engine.store import StepRecord
from tasks.engine.supervisor import STOPPING
from tasks.environment import configure_environment, environment_without_secrets
from tasks.pipeline import dvc_folder
from tasks.project_files import PROJECT
from tasks.versioning.dvc_lock import forget_dead_holders, lock_holders

_dvc_mutex = threading.Lock()
_BUSY = ("is busy", "Unable to acquire lock")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataVersion:
    """Which data a dataset was made of.

    Attributes:
        raw_md5: DVC's hash of the raw data; None when they are no output of a DVC stage.
        prepared_md5: DVC's hash of the prepared data, likewise.
    """

    dataset: str
    raw: Path
    prepared: Path
    raw_md5: str | None = None
    prepared_md5: str | None = None

    @property
    def dvc(self) -> bool:
        """Whether DVC holds this version."""
        return self.prepared_md5 is not None


def has_stages(root: Path) -> bool:
    """Whether the workspace has DVC stages: a ``dvc.yaml`` and DVC's own folder."""
    return (root / "dvc.yaml").is_file() and (root / ".dvc").is_dir()


def force_fetch(root: Path, datasets: Sequence[str]) -> None:
    """Run the fetch stage of datasets although DVC takes it as up to date.

    Raises:
        InputError: A source cannot be read.
        BeftError: DVC failed.
    """
    configure_no_scm(root)
    _dvc(root, ["repro", "--force", "--single-item", *(f"fetch@{name}" for name in datasets)])


def reproduce(root: Path, stages: Sequence[str], *, patience: float = 120.0) -> None:
    """Bring stages, and what they depend on, up to date.

    Raises:
        InputError: A stage said that the user's input is wrong; the message is the stage's.
        BeftError: A stage or DVC failed.
    """
    configure_no_scm(root)
    _dvc(root, ["repro", *stages], patience=patience)


def is_up_to_date(root: Path, stages: Sequence[str]) -> bool:
    """Whether ``reproduce`` would do nothing for stages; False also where DVC cannot tell."""
    configure_environment(root)
    with _dvc_mutex:
        forget_dead_holders(root)
        return run_command(["-m", "dvc", "status", "--quiet", *stages], root, source=PROJECT).status == 0


def push(root: Path, stages: Sequence[str], remote: str | None = None, *, patience: float = 120.0) -> None:
    """Copy the outputs of stages to a remote (None: the default one).

    Raises:
        BeftError: There is no such remote, or it cannot be reached.
    """
    named = ["--remote", remote] if remote else []
    try:
        _dvc(root, ["push", *named, *stages], patience=patience, program=("-m", "tasks.versioning.complete_push"))
    except BeftError as error:
        raise BeftError(f"{error}\nTo run without a copy of the data, set versioning.push to false.") from None


def fetch_by_md5(root: Path, md5: str, out: Path, remote: str | None = None, *, cached: bool = True) -> None:
    """Get a folder that DVC holds by its hash alone, out of the workspace's cache or its remote.

    It is done by a DVC of its own in a temporary folder, so that nothing in the workspace changes but its cache.

    Args:
        md5: As ``dvc.lock`` has it.
        out: The folder; it must not be there yet.
        remote: Name of the remote; None: the default one.
        cached: Whether the workspace's cache is used; if not, the remote alone.

    Raises:
        BeftError: Neither has it, or what the remote has is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="beft-dvc-") as kept:
        folder = Path(kept)
        (folder / ".dvc").mkdir()
        copy = ["-m", "tasks.versioning.copy_config", str(root / ".dvc"), str(folder / ".dvc")]
        if run_command([*copy, "cached"] if cached else copy, folder, source=PROJECT).status != 0:
            why = own_command("dvc", "config", "--list")
            raise BeftError(f"the configuration of DVC in {root / '.dvc'} cannot be read; there, this says why: {why}")
        output = {"path": out.name, "hash": "md5", "md5": md5}
        write_text(folder / f"{out.name}.dvc", yaml.safe_dump({"outs": [output]}))
        named = ["--remote", remote] if remote else []
        _dvc(folder, ["pull", *named, f"{out.name}.dvc"])
        shutil.move(folder / out.name, out)


def data_versions(root: Path, datasets: Iterable[str]) -> dict[str, DataVersion]:
    """The versions of the data that DVC's stages made, from ``dvc.lock``."""
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {
        name: DataVersion(
            name,
            root / dvc_folder(f"fetch/{name}"),
            root / dvc_folder(f"prepare/{name}"),
            _md5(stages, "fetch", name),
            _md5(stages, "prepare", name),
        )
        for name in datasets
    }


def stage_record(root: Path, step: str, dataset: str) -> StepRecord | None:
    """What is known of the output of a stage, in the form of a finished step's record; None when there is none.

    Its fingerprint is the hash of the contents, its time that of the newest file; what it took is not known.
    """
    folder = root / dvc_folder(f"{step}/{dataset}")
    outputs = contents(folder)
    if not outputs:
        return None
    newest = max((folder / path).stat().st_mtime for path in outputs)
    return StepRecord(
        step=step,
        dataset=dataset,
        fingerprint=contents_sha256(folder),
        seconds=0.0,
        finished=datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds"),
        summary={},
        inputs={},
        outputs=outputs,
        compute={},
    )


def reproduced_stages(root: Path) -> list[str]:
    """The stages after the data that the user has reproduced here: in ``dvc.lock``, with their outputs there."""
    path = root / "dvc.lock"
    stages = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {}) if path.is_file() else {}
    return [
        name
        for name, stage in stages.items()
        if name.partition("@")[0] not in ("fetch", "prepare")
        and all((root / out["path"]).exists() for out in stage.get("outs", ()))
    ]


def lock_sha256(root: Path) -> str | None:
    """The sha256 of ``dvc.lock``; None when there is none."""
    path = root / "dvc.lock"
    return sha256_file(path) if path.is_file() else None


def configure_no_scm(root: Path) -> None:
    """Tell DVC, in its local configuration, when the workspace is not under git: it would refuse to work."""
    path = root / ".dvc" / "config.local"
    wanted = not _is_under_git(root)
    stated = path.is_file() and bool(re.search(r"^\s*no_scm\s*=\s*true", path.read_text(encoding="utf-8"), re.M))
    if wanted and not stated:
        _dvc(root, ["config", "--local", "core.no_scm", "true"])
    elif stated and not wanted:
        _dvc(root, ["config", "--local", "--unset", "core.no_scm"])


def _is_under_git(root: Path) -> bool:
    """Whether DVC can work with git in the workspace: its own repository, or one above that does not ignore it."""
    if (root / ".git").exists():
        return True
    options: dict[str, Any] = {"cwd": root, "env": environment_without_secrets(), "capture_output": True, "text": True}
    try:
        inside = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], check=False, **options)
        ignored = subprocess.run(["git", "check-ignore", "--quiet", "dvc.yaml"], check=False, **options)
    except OSError:
        return False  # no git on this machine
    return inside.stdout.strip() == "true" and ignored.returncode != 0


def _md5(stages: dict[str, dict[str, list[dict[str, str]]]], step: str, dataset: str) -> str | None:
    for output in stages.get(f"{step}@{dataset}", {}).get("outs", []):
        if Path(output["path"]) == dvc_folder(f"{step}/{dataset}"):
            return output.get("md5")
    return None


def _dvc(
    root: Path, arguments: Sequence[str], *, patience: float = 120.0, program: Sequence[str] = ("-m", "dvc")
) -> None:
    configure_environment(root)
    deadline = time.monotonic() + patience
    pause = 0.5
    while True:
        with _dvc_mutex:
            forget_dead_holders(root)
            ended = run_command([*program, *arguments], root, source=PROJECT)
        if ended.status == 0:
            return
        if ended.error is not None:
            raise ended.error
        lines = ended.lines
        said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines[-3:]
        if not any(mark in line for line in lines for mark in _BUSY):
            raise BeftError(f"dvc {' '.join(arguments)} failed: " + "; ".join(said))
        holders = " and ".join(lock_holders(root))
        if time.monotonic() > deadline:
            who = f"{holders} holds DVC's lock in {root}: wait for it, or end it" if holders else "; ".join(said)
            raise BeftError(f"dvc {' '.join(arguments)} failed after {patience:g} s of trying: {who}")
        logger.info("DVC is busy: %s; trying again in %.1f s", holders or "another process holds its lock", pause)
        if STOPPING.wait(pause):
            raise BeftError(f"dvc {' '.join(arguments)}: stopped; run it again to resume")
        pause = min(2 * pause, 10.0)
