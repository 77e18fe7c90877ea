"""The journal of the registry: who moved which alias, on which decision, written before the move is made.

One JSON object a line, ``mlflow/journal.jsonl``; lines are only ever added. The registry itself keeps no history of its
aliases, and deleting a version takes its tags along: what stands here stays.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from beft.files import sha256_json
from tasks.engine.declaration import JSON


def journal_path(root: Path) -> Path:
    """Where the journal of a project is."""
    return root / "mlflow" / "journal.jsonl"


def read_journal(path: Path) -> list[dict[str, JSON]]:
    """Every entry, oldest first; a line that a crash cut short is left out."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_bytes().split(b"\n"):  # a line that was cut may end within a character
        try:
            entry = json.loads(line.decode())
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def append_entry(path: Path, kind: str, subject: JSON, **facts: JSON) -> str:
    """Add an entry and wait until it is on the disk; the same entry (kind and subject) is never added twice.

    Args:
        kind: What happened, for example ``"gate decision"``.
        subject: What makes it this one and no other: a JSON value.
        facts: Whatever a reader of the journal will want to know.

    Returns:
        The entry's id.
    """
    name = sha256_json([kind, subject])
    if any(entry.get("id") == name for entry in read_journal(path)):
        return name
    entry = {"id": name, "time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind, **facts}
    line = json.dumps(entry, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and not _ends_whole(path):
            line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
    return name


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
