"""The workspace: where runs keep their files, and the lock that lets one run at a time write there.

runs/lock.json                      the process that runs now
runs/steps/STEP-DATASET-HASH/       a finished step, named by its fingerprint; shared by all runs that ask for it
runs/HASH/                          one run: run.json, params.yaml, report.html, and a link to each of its steps
runs/latest                         a link to the run that finished last
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from beft.errors import BeftError
from beft.files import clear_leftovers, write_json

_LOOK_AGAIN = 1.0  # seconds

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
            WorkspaceBusyError: Another process holds it and lives.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        path = self.runs / "lock.json"
        deadline = time.monotonic() + patience
        told = False
        while (holder := _take(path)) is not None:
            if time.monotonic() >= deadline:
                raise WorkspaceBusyError(_busy(holder, path))
            if not told:
                logger.info("waiting: %s", _busy(holder, path).partition(";")[0])
                told = True
            time.sleep(min(_LOOK_AGAIN, max(0.0, deadline - time.monotonic())))
        try:
            for folder in (self.runs, self.root / "reports"):
                clear_leftovers(folder)
            yield
        finally:
            with _guarded(path) as file:
                _write(file, {})

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

    def point_latest(self, fingerprint: str) -> None:
        """Let ``runs/latest`` name this run."""
        _link(self.runs / "latest", self.run_folder(fingerprint))


def _link(path: Path, target: Path) -> None:
    """A relative symbolic link, made or turned in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, path.parent), target_is_directory=True)
    temporary.replace(path)


def _take(path: Path) -> dict[str, Any] | None:
    """Write this process into the lock file; the holder instead, when another one lives."""
    with _guarded(path) as file:
        holder = _read(file)
        if holder and not _is_gone(holder):
            return holder
        _write(file, _this_process())
        return None


@contextmanager
def _guarded(path: Path) -> Iterator[IO[str]]:
    """The open lock file, while no other process looks into it. The file stays, so that none can be deleted in use."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _read(file: IO[str]) -> dict[str, Any]:
    try:
        holder = json.loads(file.read())
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _write(file: IO[str], holder: Mapping[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(holder, file)


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": pid, "process_start": process_start(pid), "host": socket.gethostname(), "since": now}


def process_start(pid: int) -> str | None:
    """When a living process was started, as text that no other process with the same number has; None: it is gone.

    On Linux: the boot's id and the clock ticks since then. Elsewhere whether it lives is all that is known.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return None if status[0] in "ZX" else f"{boot}:{status[19]}"
    except OSError:
        pass
    if not Path("/proc/self/stat").exists():
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
        return "running"
    return None


def _is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether the process that holds the lock has ended. One on another machine cannot be asked."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        return process_start(int(holder["pid"])) != str(holder["process_start"])
    except (KeyError, TypeError, ValueError):
        return True


def _busy(holder: Mapping[str, Any], path: Path) -> str:
    here = holder.get("host") == socket.gethostname()
    where = "" if here else f" on {holder.get('host')}"
    hint = "" if here else f" If that machine is gone, delete {path}."
    return (
        f"another run has been going on in {path.parent.parent} since {holder.get('since')} (process "
        f"{holder.get('pid')}{where}); wait for it, end it, or run in another folder.{hint}"
    )
