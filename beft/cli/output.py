"""How commands print: tables, JSON, progress."""

import json
from collections.abc import Sequence
from typing import Any

import typer


def progress(line: str) -> None:
    """A line on stderr, so that stdout stays the result."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns of text, numbers to the right, never cut to the width of a terminal."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]
    right = [bool(rows) and all(_is_number(row[at]) for row in cells) for at in range(len(headers))]
    for row in [list(headers), *cells]:
        texts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        typer.echo("  ".join(texts).rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
