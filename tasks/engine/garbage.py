"""What in ``runs/`` nothing needs any more: results of steps that no run's record names, and what can be made again.

Kept are all that a ``run.json`` or a link in a run's folder names, raw and prepared data (a rebuild of a registered
version may need it), comparisons of versions (one that is made again measures other times, so the decision on it would
count as a further one), checkpoints while a run has not come to its end, and everything that was written for the user:
run folders, decisions, rebuilds, rejected rows.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from beft.files import read_json
from tasks.engine.workspace import Workspace

_KEPT = ("fetch-", "prepare-", "compare-")


@dataclass(frozen=True)
class Garbage:
    """A folder that nothing needs, its size, and why it is not needed."""

    folder: Path
    size: int
    reason: str


def find_garbage(workspace: Workspace) -> list[Garbage]:
    """What can be removed; the workspace should be locked, so that no run writes there."""
    runs = workspace.runs
    named, all_ended = _named_by_runs(workspace)
    found: list[tuple[Path, str]] = []
    for folder in _below(runs / "steps"):
        if not folder.name.startswith(_KEPT) and folder.resolve() not in named:
            found.append((folder, "a step that no run names"))
    if all_ended:
        found += [(folder, "a checkpoint; every run has finished") for folder in _below(runs / "checkpoints")]
    found += [(folder, "a copy of a registered version") for folder in _below(runs / "registered")]
    return [Garbage(folder, _size(folder), reason) for folder, reason in found]


def remove_garbage(garbage: Sequence[Garbage]) -> None:
    """Remove what was found."""
    for one in garbage:
        shutil.rmtree(one.folder)


def _named_by_runs(workspace: Workspace) -> tuple[set[Path], bool]:
    """The folders that runs name, and whether every run has finished."""
    named: set[Path] = set()
    all_ended = True
    for path in workspace.runs.glob("*/run.json"):
        named |= {link.resolve() for link in path.parent.rglob("*") if link.is_symlink()}
        try:
            record = read_json(path)
            named |= {(workspace.root / step["folder"]).resolve() for step in record["steps"].values()}
            all_ended &= record["status"] == "FINISHED"
        except (ValueError, KeyError, TypeError, AttributeError):  # what cannot be read is not at its end
            all_ended = False
    return named, all_ended


def _below(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink())


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
