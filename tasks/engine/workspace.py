"""The workspace: where runs keep their files, and the lock that lets one run at a time write there.

runs/lock.json                      the process that runs now; locked by the kernel, so it is free when that has died
runs/steps/STEP-DATASET-HASH/       a finished step, named by its fingerprint; shared by all runs that ask for it
runs/HASH/                          one run: run.json, params.yaml, report.html, and a link to each of its steps
runs/latest                         a link to the run that finished last
"""

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from beft.errors import BeftError
from beft.files import clear_leftovers, read_json, write_json

_LOOK_AGAIN = 1.0  # seconds

HIDDEN = "running"
"""The start of a process of which it is known only that there is one with this number."""

logger = logging.getLogger(__name__)


class WorkspaceBusyError(BeftError):
    """Another run is going on in this workspace."""


@dataclass(frozen=True)
class Workspace:
    """The folder that a run works in; the project's own, or any other.

    Attributes:
        root: The folder, absolute.
    """

    root: Path

    @property
    def runs(self) -> Path:
        """Where runs keep their files."""
        return self.root / "runs"

    def run_folder(self, fingerprint: str) -> Path:
        """The folder of the run with this fingerprint."""
        return self.runs / fingerprint[:16]

    @contextmanager
    def locked(self, *, patience: float = 0.0) -> Iterator[None]:
        """Hold the workspace for this process, and clear away what a dead run left half-written.

        Args:
            patience: Seconds to wait for a run that is going on.

        Raises:
            WorkspaceBusyError: Another process holds it.
            BeftError: The file system has no locks, or the folder cannot be written.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        path = self.runs / "lock.json"
        with _held(path, patience):
            for folder in (self.runs, self.root / "reports"):
                clear_leftovers(folder)
            yield

    def record_run(self, fingerprint: str, record: Mapping[str, Any], steps: Mapping[str, Path]) -> Path:
        """Write what is known of a run, with a link to each of its steps so far.

        Args:
            steps: ``STEP/DATASET`` or ``STEP`` to the step's folder.
        """
        folder = self.run_folder(fingerprint)
        write_json(folder / "run.json", record)
        for key, target in steps.items():
            _link(folder / key, target)
        return folder

    def has_finished(self, fingerprint: str) -> bool:
        """Whether the last run with this fingerprint has finished."""
        try:
            record = read_json(self.run_folder(fingerprint) / "run.json")
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and record.get("status") == "FINISHED"

    def point_latest(self, fingerprint: str) -> None:
        """Let ``runs/latest`` name this run."""
        _link(self.runs / "latest", self.run_folder(fingerprint))


@contextmanager
def _held(path: Path, patience: float) -> Iterator[None]:
    """Hold the kernel's lock on a file, which ends with this process, and write into the file who holds it."""
    lock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if patience <= 0:
                raise
            logger.info("waiting: %s", _busy(path).partition(";")[0])
            lock.acquire(timeout=patience, poll_interval=min(_LOOK_AGAIN, patience))
    except Timeout:
        raise WorkspaceBusyError(_busy(path)) from None
    except OSError as error:
        hint = "" if error.errno in (EACCES, EPERM, EROFS) else "; run in a folder whose file system has locks"
        raise BeftError(f"{path} cannot be locked: {error.strerror or error}{hint}") from None
    try:
        _write(path, _this_process())
        yield
    finally:
        _write(path, {})
        lock.release()


def _link(path: Path, target: Path) -> None:
    """A relative symbolic link, made or turned in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    """What the holder has written into the lock file; empty where it has not yet."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _write(path: Path, holder: Mapping[str, Any]) -> None:
    """Write into the lock file, which stays the same file: the kernel's lock is on it."""
    with suppress(OSError), path.open("r+", encoding="utf-8") as file:  # on a full disk nobody learns who holds it
        file.truncate()
        json.dump(holder, file)


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": pid, "process_start": process_start(pid), "host": socket.gethostname(), "since": now}


def process_start(pid: int) -> str | None:
    """When a living process was started, as text that no other process with the same number has; None: it is gone.

    That is the boot's id and the clock ticks since then; ``HIDDEN`` where ``/proc`` does not show it.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if status[0] in "ZX" else f"{boot}:{status[19]}"
    except OSError:
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
        return HIDDEN


def _busy(path: Path) -> str:
    holder = _read(path)
    here = holder.get("host") == socket.gethostname()
    where = "" if here else f" on {holder.get('host')}"
    who = f"process {holder['pid']}{where}" if "pid" in holder else "a process that has just begun"
    since = f" since {holder['since']}" if "since" in holder else ""
    return (
        f"another run has been going on in {path.parent.parent}{since} ({who}); wait for it, end it, or run in another "
        "folder"
    )
