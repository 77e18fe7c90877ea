"""Tables of results: one type, written as Markdown, CSV, LaTeX, JSON, or to a terminal.

CSV and JSON hold the numbers in full; the other forms hold them as a reader wants them.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beft.errors import InputError
from beft.files import write_text

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_DASH = "\N{EN DASH}"
_PRINTED_WIDTH = 160


@dataclass(frozen=True)
class ScoreInterval:
    """A number with its interval.

    Attributes:
        value: The number itself.
        low: Lower end of the interval; None where there is none (one seed, say).
        high: Upper end of the interval; None where there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None


Cell = str | int | float | ScoreInterval | None
"""What a cell holds: text, a number, a number with its interval, or nothing (shown as a dash)."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        digits: Decimal places of the numbers that are no integers; None: three significant digits.
        signed: Whether positive numbers are shown with their sign, as differences are.
    """

    name: str
    digits: int | None = None
    signed: bool = False

    def text(self, cell: Cell) -> str:
        """A cell as people read it."""
        if cell is None:
            return _DASH
        if isinstance(cell, str):
            return cell
        if isinstance(cell, ScoreInterval):
            if cell.low is None or cell.high is None:
                return self._number(cell.value)
            return f"{self._number(cell.value)} [{self._number(cell.low)}, {self._number(cell.high)}]"
        return self._number(cell)

    def _number(self, number: int | float) -> str:
        sign = "+" if self.signed and number > 0 else ""
        if isinstance(number, bool):
            return "yes" if number else "no"
        if isinstance(number, int):
            return f"{sign}{number}"
        shown = f"{number:.3g}" if self.digits is None else f"{number:.{self.digits}f}"
        return "0" + shown[2:] if shown.startswith("-0") and float(shown) == 0 else sign + shown


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: One line above the table; empty: none.
        columns: The columns; a plain string is a column of that name.
        rows: The rows, each with one cell a column.
        notes: Sentences below the table.
        bold: Cells (row, column) that are printed bold, the best ones say.

    Raises:
        InputError: A row has another number of cells than there are columns, a number is not finite, or a bold cell
            is outside of the table.
    """

    title: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    bold: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        columns = tuple(Column(column) if isinstance(column, str) else column for column in self.columns)
        rows = tuple(tuple(row) for row in self.rows)
        if not columns:
            raise InputError(f"the table {self.title!r} has no columns")
        for at, row in enumerate(rows):
            if len(row) != len(columns):
                raise InputError(f"row {at + 1} of the table {self.title!r} has {len(row)} cells, not {len(columns)}")
            for column, cell in zip(columns, row, strict=True):
                if not all(math.isfinite(number) for number in _numbers(cell)):
                    raise InputError(
                        f"row {at + 1} of the table {self.title!r} holds {cell} in the column {column.name!r}: "
                        "not a finite number"
                    )
        outside = [at for at in self.bold if not (0 <= at[0] < len(rows) and 0 <= at[1] < len(columns))]
        if outside:
            raise InputError(f"the table {self.title!r} has no cell {min(outside)}, which should be bold")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, numbers to the right."""
        heads = [_markdown(column.name) for column in self._columns]
        rules = ["---:" if numeric else "---" for numeric in self._numeric]
        lines = [_piped(heads), _piped(rules)]
        lines += [_piped(row) for row in self._texts(_markdown, lambda text: f"**{text}**")]
        parts = [f"**{_markdown(self.title)}**"] if self.title else []
        parts.append("\n".join(lines))
        parts += [_markdown(note) for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def to_csv(self) -> str:
        """The table as CSV (RFC 4180, lines end with a line feed), numbers in full; title and notes are left out.

        A column with intervals becomes three: its name, and the name followed by ``low`` and ``high``.
        """
        wide = [any(isinstance(row[at], ScoreInterval) for row in self.rows) for at in range(len(self.columns))]
        heads: list[str] = []
        for column, with_interval in zip(self._columns, wide, strict=True):
            heads += [column.name, f"{column.name} low", f"{column.name} high"] if with_interval else [column.name]
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(heads)
        for row in self.rows:
            cells: list[Any] = []
            for cell, with_interval in zip(row, wide, strict=True):
                if isinstance(cell, ScoreInterval):
                    cells += [cell.value, cell.low, cell.high]
                else:
                    cells += [cell, None, None] if with_interval else [cell]
            writer.writerow(cells)
        return out.getvalue()

    def to_latex(self) -> str:
        """The table as a LaTeX ``table`` with rules of the package booktabs, title as caption, every text escaped."""
        align = "".join("r" if numeric else "l" for numeric in self._numeric)
        lines = [r"\begin{table}", r"\centering"]
        if self.title:
            lines.append(rf"\caption{{{_latex(self.title)}}}")
        lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [_ampersands([_latex(column.name) for column in self._columns]), r"\midrule"]
        lines += [_ampersands(row) for row in self._texts(_latex, lambda text: rf"\textbf{{{text}}}")]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\smallskip {{\footnotesize {_latex(note)}}}" for note in self.notes]
        lines.append(r"\end{table}")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values: rows as lists, intervals as objects with ``value``, ``low`` and ``high``."""

        def value(cell: Cell) -> Any:
            if isinstance(cell, ScoreInterval):
                return {"value": cell.value, "low": cell.low, "high": cell.high}
            return cell

        return {
            "title": self.title,
            "columns": [column.name for column in self._columns],
            "rows": [[value(cell) for cell in row] for row in self.rows],
            "notes": list(self.notes),
        }

    def write(self, path: Path) -> None:
        """Write the table; the suffix of ``path`` (.md, .csv, .tex, .json) says in which form.

        Raises:
            InputError: The suffix is another one.
        """
        forms: dict[str, Callable[[], str]] = {
            ".md": self.to_markdown,
            ".csv": self.to_csv,
            ".tex": self.to_latex,
            ".json": lambda: json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        }
        if path.suffix.lower() not in forms:
            raise InputError(f"a table is written as {', '.join(forms)}, not as {path.name!r}")
        write_text(path, forms[path.suffix.lower()]())

    def __str__(self) -> str:
        """The table as plain text, for ``print``."""
        from rich.console import Console

        console = Console(file=StringIO(), width=_PRINTED_WIDTH, color_system=None)
        console.print(self)
        file = console.file
        assert isinstance(file, StringIO)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def __rich__(self) -> "RichTable":
        """The table for a terminal: ``rich.print(table)``. No text in it is taken as markup."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(self.title, style="bold") if self.title else None,
            title_justify="left",
            caption=Text("\n".join(self.notes)) if self.notes else None,
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        for column, numeric in zip(self._columns, self._numeric, strict=True):
            table.add_column(Text(column.name), justify="right" if numeric else "left", overflow="fold")
        for at, row in enumerate(self.rows):
            cells = [column.text(cell) for column, cell in zip(self._columns, row, strict=True)]
            styles = ["bold" if (at, place) in self.bold else "" for place in range(len(cells))]
            table.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
        return table

    @property
    def _columns(self) -> list[Column]:
        return [column for column in self.columns if isinstance(column, Column)]

    @property
    def _numeric(self) -> list[bool]:
        """Whether each column holds numbers (and nothing beside them but empty cells)."""
        cells = [[row[at] for row in self.rows if row[at] is not None] for at in range(len(self.columns))]
        return [bool(column) and not any(isinstance(cell, str) for cell in column) for column in cells]

    def _texts(self, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
        """The cells as text, escaped, and in bold where they should be."""
        texts = []
        for at, row in enumerate(self.rows):
            cells = [escape(column.text(cell)) for column, cell in zip(self._columns, row, strict=True)]
            texts.append([bold(cell) if (at, place) in self.bold else cell for place, cell in enumerate(cells)])
        return texts


def text_columns(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns of plain text, numbers to the right, as wide as they are."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(headers), *cells]) for at in range(len(headers))]
    right = [bool(rows) and all(_is_number(row[at]) for row in cells) for at in range(len(headers))]
    lines = []
    for row in [list(headers), *cells]:
        texts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(texts).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def _numbers(cell: Cell) -> list[float]:
    if isinstance(cell, ScoreInterval):
        return [number for number in (cell.value, cell.low, cell.high) if number is not None]
    return [cell] if isinstance(cell, int | float) else []


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
    text = re.sub(r"[\\|*`<~]|\]\(", lambda found: "\\" + found[0] if found[0] != "](" else r"]\(", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # between letters an underscore is no markup
    return " ".join(text.split())


def _ampersands(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    # A bracket at the start of a row would be read as the argument of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{DAGGER}": r"\textdagger{}",
    "\N{DOUBLE DAGGER}": r"\textdaggerdbl{}",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
    "\N{GREEK SMALL LETTER LAMDA}": r"$\lambda$",
}


def _latex(text: str) -> str:
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())
