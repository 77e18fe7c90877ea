"""The command ``beft gc``: what can be removed from ``runs/``, how much that is, and its removal."""

import sys
from pathlib import Path

import typer

from tasks.engine.garbage import find_garbage, remove_garbage
from tasks.engine.workspace import Workspace


def collect_garbage(root: Path, *, yes: bool) -> None:
    """List what nothing needs any more, and remove it where the user agrees.

    Args:
        yes: Remove it without asking.

    Raises:
        WorkspaceBusyError: A run is going on here.
    """
    workspace = Workspace(root.resolve())
    with workspace.locked():
        found = find_garbage(workspace)
        if not found:
            typer.echo("Nothing in runs/ can be removed.")
            return
        for one in found:
            typer.echo(f"{one.size / 1e6:10.1f} MB  {one.folder.relative_to(workspace.root)}  ({one.reason})")
        total = f"{sum(one.size for one in found) / 1e6:.1f} MB in {len(found)} folders"
        if not yes and not sys.stdin.isatty():
            typer.echo(f"{total} can be removed: add --yes.")
            return
        if yes or typer.confirm(f"Remove {total}?"):
            remove_garbage(found)
            typer.echo(f"Removed {total}.")
