"""How commands print: tables, JSON, progress."""

import json
from collections.abc import Sequence
from typing import Any

import typer

from beft.tables import text_columns


def progress(line: str) -> None:
    """A line on stderr, so that stdout stays the result."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns of text, numbers to the right, never cut to the width of a terminal."""
    typer.echo(text_columns(headers, rows))
