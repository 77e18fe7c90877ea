"""Who holds DVC's locks in a workspace: DVC itself says only that someone does."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LONGEST = 160


def lock_holders(root: Path) -> list[str]:
    """The living processes that hold a lock of DVC in a workspace, each as ``process NUMBER (COMMAND)``.

    DVC has two: one file that is locked while it reads or writes its own files, and a list of who works on which path.
    """
    folder = root / ".dvc" / "tmp"
    found = {*_flock_holders(folder / "lock"), *_rwlock_holders(folder / "rwlock")} - {os.getpid()}
    return [said for pid in sorted(found) if (said := _process(pid))]


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
