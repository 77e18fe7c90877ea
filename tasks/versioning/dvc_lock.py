"""Who holds DVC's locks in a workspace: DVC itself says only that someone does."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from beft.files import write_json

_LONGEST = 160


def lock_holders(root: Path) -> list[str]:
    """The living processes that hold a lock of DVC in a workspace, each as ``process NUMBER (COMMAND)``.

    DVC has two: one file that is locked while it reads or writes its own files, and a list of who works on which path.
    """
    folder = root / ".dvc" / "tmp"
    found = {*_flock_holders(folder / "lock"), *_rwlock_holders(folder / "rwlock")} - {os.getpid()}
    return [said for pid in sorted(found) if (said := _process(pid))]


def forget_dead_holders(root: Path) -> None:
    """Take out of DVC's list of who works on which path the processes that have ended.

    DVC itself looks for a process with that number only. In a container, whose numbers are always the same, a process
    of today has the number of the one that was killed with the container before, and DVC would wait for it for ever.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    if not path.is_file():
        return
    with FileLock(path.with_name("rwlock.lock"), timeout=30):  # as DVC does, by the same lock of the kernel
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            living = {
                "write": {name: entry for name, entry in stored.get("write", {}).items() if _is_at_work(entry)},
                "read": {
                    name: kept
                    for name, entries in stored.get("read", {}).items()
                    if (kept := [entry for entry in entries if _is_at_work(entry)])
                },
            }
        except (ValueError, TypeError, KeyError, AttributeError):
            living, stored = {}, None  # its writer was killed while it wrote
        if living != stored:
            write_json(path, living)


def _is_at_work(entry: Mapping[str, Any]) -> bool:
    """Whether the process of an entry lives: one with its number, whose command ends as the one that DVC noted.

    Clocks say nothing of that: a file's time is that of the machine that has the disk, and clocks are set.
    """
    import psutil

    noted = str(entry["cmd"]).split()
    try:
        command = " ".join(psutil.Process(int(entry["pid"])).cmdline()).split()
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True  # somebody else's, whose command cannot be seen
    return len(noted) < 2 or noted[-1:] == command[-1:]


def _flock_holders(path: Path) -> Iterator[int]:
    """By the system's own list where it has one; else the number in the file, which its last holder wrote there."""
    with suppress(OSError, ValueError):
        inode = path.stat().st_ino
        try:
            locks = Path("/proc/locks").read_text(encoding="utf-8")
        except OSError:
            yield int(path.read_text(encoding="utf-8"))
            return
        for line in locks.splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                yield int(fields[4])


def _rwlock_holders(path: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        for entry in stored.get("write", {}).values():
            yield int(entry["pid"])
        for entries in stored.get("read", {}).values():
            for entry in entries:
                yield int(entry["pid"])


def _process(pid: int) -> str | None:
    """The process and its command; None when it has ended."""
    import psutil

    try:
        command = " ".join(" ".join(psutil.Process(pid).cmdline()).split())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        command = ""  # somebody else's
    shown = command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…"
    return f"process {pid} ({shown or 'its command cannot be seen'})"
