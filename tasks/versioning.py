"""DVC behind one module: make the data through its stages, push them, and say which version they are.

DVC runs as a command in the workspace's folder: its library works on the process's current one. One call at a time in
a process; when another process holds DVC's own lock, it is tried again for a while.
"""

import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from beft.errors import BeftError, InputError
from beft.files import read_json, sha256_file
from tasks.environment import settle
from tasks.fingerprint import PROJECT, contents, contents_sha256
from tasks.step import StepRecord
from tasks.steps import dvc_folder

ERROR_FILE = "BEFT_ERROR_FILE"
"""The environment variable that names the file in which a stage leaves its error for whoever called DVC."""

_gate = threading.Lock()
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


def fetch_again(root: Path, datasets: Sequence[str]) -> None:
    """Run the fetch stage of datasets although DVC takes it as up to date.

    Raises:
        InputError: A source cannot be read.
        BeftError: DVC failed.
    """
    keep_without_git(root)
    _dvc(root, ["repro", "--force", "--single-item", *(f"fetch@{name}" for name in datasets)])


def reproduce(root: Path, stages: Sequence[str], *, patience: float = 120.0) -> None:
    """Bring stages, and what they depend on, up to date.

    Raises:
        InputError: A stage said that the user's input is wrong; the message is the stage's.
        BeftError: A stage or DVC failed.
    """
    keep_without_git(root)
    _dvc(root, ["repro", *stages], patience=patience)


def push(root: Path, stages: Sequence[str], remote: str | None = None, *, patience: float = 120.0) -> None:
    """Copy the outputs of stages to a remote (none: the default one).

    Raises:
        BeftError: There is no such remote, or it cannot be reached.
    """
    named = ["--remote", remote] if remote else []
    try:
        _dvc(root, ["push", "--quiet", *named, *stages], patience=patience)
    except BeftError as error:
        raise BeftError(f"{error}\nTo run without a copy of the data, set versioning.push to false.") from None


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


def lock_sha256(root: Path) -> str | None:
    """The sha256 of ``dvc.lock``; None when there is none."""
    path = root / "dvc.lock"
    return sha256_file(path) if path.is_file() else None


def keep_without_git(root: Path) -> None:
    """Tell DVC, in its local configuration, when the workspace is not under git: it would refuse to work."""
    path = root / ".dvc" / "config.local"
    wanted = not (root / ".git").exists()
    stated = path.is_file() and bool(re.search(r"^\s*no_scm\s*=\s*true", path.read_text(encoding="utf-8"), re.M))
    if wanted and not stated:
        _dvc(root, ["config", "--local", "core.no_scm", "true"])
    elif stated and not wanted:
        _dvc(root, ["config", "--local", "--unset", "core.no_scm"])


def _md5(stages: dict[str, dict[str, list[dict[str, str]]]], step: str, dataset: str) -> str | None:
    for output in stages.get(f"{step}@{dataset}", {}).get("outs", []):
        if Path(output["path"]) == dvc_folder(f"{step}/{dataset}"):
            return output.get("md5")
    return None


def _dvc(root: Path, arguments: Sequence[str], *, patience: float = 120.0) -> None:
    settle(root)
    deadline = time.monotonic() + patience
    pause = 0.5
    while True:
        with _gate:
            status, lines, error = _once(root, arguments)
        if status == 0:
            return
        if error is not None:
            raise error
        busy = next((line for line in lines if any(mark in line for mark in _BUSY)), None)
        if busy is None or time.monotonic() > deadline:
            said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines[-3:]
            raise BeftError(f"dvc {' '.join(arguments)} failed: " + "; ".join(said))
        logger.info("DVC is busy in another process; trying again in %.1f s", pause)
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def _once(root: Path, arguments: Sequence[str]) -> tuple[int, list[str], BeftError | None]:
    """Run the command once; its status, its lines, and the error that a stage left."""
    with tempfile.TemporaryDirectory(prefix="beft-") as folder:
        left = Path(folder) / "error.json"
        scripts = Path(sys.executable).parent  # the stages call ``python``: let it be this one
        environment = os.environ | {
            "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
            ERROR_FILE: str(left),
        }
        child = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert child.stdout
        lines = []
        with child:
            for line in child.stdout:
                if line.strip():
                    lines.append(line.strip())
                    logger.info("%s", line.rstrip())
        error = None
        if left.is_file():
            stored = read_json(left)
            error = (InputError if stored["input"] else BeftError)(stored["error"])
        return child.returncode, lines, error


def leave_error(error: BeftError) -> None:
    """In a stage: leave an error for whoever called DVC, if someone asked for it."""
    path = os.environ.get(ERROR_FILE)
    if path:
        stored = {"error": str(error), "input": isinstance(error, InputError)}
        Path(path).write_text(json.dumps(stored), encoding="utf-8")
