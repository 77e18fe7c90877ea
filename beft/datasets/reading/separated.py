"""CSV and TSV files: read in the dialect that a description declares, or suggest the one that the first lines show."""

import csv
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from beft.datasets.reading.raw_columns import column_positions, plain_name
from beft.datasets.reading.text_files import text_lines
from beft.datasets.sources import Reading
from beft.errors import InputError
from beft.names import unknown_name

SEPARATORS = (",", ";", "\t", "|")
_USUAL = {"csv": ",", "tsv": "\t"}
_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The line that Excel reads and writes before the header."""
_LOOKED_AT = 50
_FIELD_LIMIT = threading.RLock()


class Dialect(NamedTuple):
    """How a line is divided into fields.

    Attributes:
        quote: What a field may be enclosed in; None where nothing is.
    """

    separator: str
    quote: str | None

    def __str__(self) -> str:
        """The dialect as a description says it."""
        separator = f"separator: {_as_yaml(self.separator)}"
        return separator if self.quote is None else f"{separator} and quote: {_as_yaml(self.quote)}"


@dataclass
class Table:
    """The rows of a file of fields.

    Attributes:
        lines: The line of the file that each row begins in; the first is 1.
        short: The lines with too few fields, which ``ragged`` takes for no rows.
        cut: The lines with too many, whose last fields ``ragged`` does not read.
    """

    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    short: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)


def declared_dialect(reading: Reading, form: str) -> Dialect:
    """The dialect of a CSV or TSV file that its description declares, with what is usual where it says nothing."""
    quotes = (form == "csv") if reading.quotes is None else reading.quotes
    quote = reading.quote or ('"' if quotes else None)
    return Dialect(reading.separator or _USUAL[form], quote)


def read_separated(path: Path, reading: Reading, form: str, wanted: Sequence[str]) -> Table:
    """Read a CSV or TSV file.

    Args:
        wanted: The columns that the description names, by which another dialect is recognised.

    Raises:
        InputError: Lines are not in the dialect, or the header has none of the columns; the message has the line, and
            the dialect that the first lines show.
    """
    dialect = declared_dialect(reading, form)
    try:
        with text_lines(path, reading) as lines:
            table = _table(path.name, lines, dialect, reading, wanted)
    except _OtherDialect as error:
        advice = _advice(path, reading, dialect, wanted)
        raise InputError(f"{error}.{advice}" if advice else f"{error}{error.advice}") from None
    places = column_positions(table.header, wanted, path.name)
    absent = [name for name in wanted if name not in places]
    advice = _advice(path, reading, dialect, wanted) if absent else None
    if absent and not advice and len(absent) == len(wanted) <= len(table.header) and not reading.header:
        advice = (
            " Where its first line is data already, say 'header: […]' in the source of the description, with a name "
            f"for each of the {len(table.header)} columns"
        )
    if advice:
        names = [name if len(name) <= 40 else f"{name[:39]}…" for name in table.header[:20]]
        raise InputError(f"{path.name}: {unknown_name(absent[0], names, 'column')}{advice}")
    return table


class _OtherDialect(Exception):
    """A line does not fit the dialect; ``advice`` is for where no other dialect fits."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


def _table(name: str, lines: Iterator[str], dialect: Dialect, reading: Reading, wanted: Sequence[str]) -> Table:
    lines, separator = _without_excel_line(lines)
    if separator and reading.separator is None:
        dialect = dialect._replace(separator=separator)
    with _fields_of_any_length():
        records = _records(name, lines, dialect, skipped=int(separator is not None))
        table = Table(list(reading.header) or next(records, (0, []))[1])
        for line, fields in records:
            more = len(fields) - len(table.header)
            if more and not reading.ragged:
                raise _OtherDialect(
                    f"{name}, line {line}: it has {len(fields)} fields, not the {len(table.header)} of the header",
                    _advice_on(fields, table.header, dialect, wanted),
                )
            if more < 0:
                table.short.append(line)
                continue
            if more:
                table.cut.append(line)
            table.rows.append(fields)
            table.lines.append(line)
    return table


def _advice_on(fields: Sequence[str], header: Sequence[str], dialect: Dialect, wanted: Sequence[str]) -> str:
    """What to do about a line with another number of fields than the header."""
    if wanted and not {*map(plain_name, wanted)} & {*map(plain_name, header)}:
        return ", which has none of the columns that the description names: let the header be the first line"
    if dialect.quote and any(one.lstrip() != one and one.lstrip().startswith(dialect.quote) for one in fields):
        return f". A blank stands before a {dialect.quote}, which is then no quotation mark: remove the blank"
    within = f" (a field that holds {dialect.separator!r} stands in {dialect.quote})" if dialect.quote else ""
    return (
        f". Correct the line{within}, or say 'ragged: true' in the source of the description: lines with too many "
        "fields are then read without the last ones, and those with too few are left out"
    )


def _records(name: str, lines: Iterator[str], dialect: Dialect, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The first line and the fields of each record; an empty line is none.

    Args:
        skipped: How many lines of the file were taken before.
    """
    reader: Any = csv.reader(lines, strict=True, **_parameters(dialect))
    line = skipped + 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        last = skipped + reader.line_num
        if "unexpected end of data" in str(error):
            raise _OtherDialect(
                f"{name}, line {line}: a field begins with {dialect.quote} and nothing closes it",
                ". Close it, or say 'quotes: false' in the source of the description, where this is no quotation mark",
            ) from None
        raise _OtherDialect(
            f"{name}, line {last}: {error}",
            f". Write {dialect.quote} twice inside of a field in quotation marks; or, where this is no quotation mark, "
            "say 'quotes: false' in the source of the description",
        ) from None


def _without_excel_line(lines: Iterator[str]) -> tuple[Iterator[str], str | None]:
    """The lines from the header on, and the separator that a first line ``sep=;`` names."""
    first = next(lines, None)
    if first is None:
        return lines, None
    found = _EXCEL.fullmatch(first)
    return (lines, found[1]) if found else (chain([first], lines), None)


def _parameters(dialect: Dialect) -> dict[str, Any]:
    if dialect.quote is None:
        return {"delimiter": dialect.separator, "quoting": csv.QUOTE_NONE}
    return {"delimiter": dialect.separator, "quotechar": dialect.quote}


def suggested_dialect(path: Path, reading: Reading, wanted: Sequence[str] = ()) -> Dialect | None:
    """The dialect that the first lines of a file show; None where no dialect finds several columns in them.

    Args:
        reading: Its encoding, and the header where the file has none.
        wanted: Columns that the header must have.

    Raises:
        InputError: The file is missing, or not in its encoding.
    """
    with text_lines(path, reading) as lines:
        kept, separator = _without_excel_line(lines)
        first = list(islice(kept, _LOOKED_AT))
        whole = next(kept, None) is None
    found: list[tuple[tuple[bool, int, bool], Dialect]] = []
    for candidate in [separator] if separator else SEPARATORS:
        plain = _first_rows(first, Dialect(candidate, None), whole=whole)
        for quote in ('"', "'", None):
            rows = _first_rows(first, Dialect(candidate, quote), whole=whole)
            header = list(reading.header) or (rows[0] if rows else [])
            if len(header) < 2 or not set(map(plain_name, wanted)) <= set(map(plain_name, header)):
                continue
            if quote is None or _encloses(quote, rows, plain):
                score = (_even([header, *rows]), len(header), quote is not None)
                found.append((score, Dialect(candidate, quote)))
    return max(found, key=lambda one: one[0])[1] if found else None


def _first_rows(lines: Sequence[str], dialect: Dialect, *, whole: bool) -> list[list[str]]:
    """The rows of the first lines; none where they are not in the dialect.

    Args:
        whole: Whether the file ends with them; otherwise the last row may lack its end.
    """
    rows: list[list[str]] = []
    reader: Any = csv.reader(lines, strict=True, **_parameters(dialect))
    try:
        with _fields_of_any_length():
            rows += (row for row in reader if row)
    except csv.Error:
        return rows if not whole and reader.line_num == len(lines) else []
    return rows


def _even(rows: Sequence[Sequence[str]]) -> bool:
    return all(len(row) == len(rows[0]) for row in rows)


def _encloses(quote: str, rows: Sequence[Sequence[str]], plain: Sequence[Sequence[str]]) -> bool:
    """Whether a quotation mark encloses fields. An apostrophe begins words, too: it must do so in a whole column."""
    if not _even(plain) and _even(rows):
        return True
    enclosed = [[len(value) > 1 and value[0] == value[-1] == quote for value in row] for row in plain[1:]]
    if quote == "'":
        return _even(plain) and any(map(all, zip(*enclosed, strict=True)))
    return any(map(any, enclosed))


def _advice(path: Path, reading: Reading, used: Dialect, wanted: Sequence[str]) -> str | None:
    """What to say in the description, where the first lines show another dialect that has all columns."""
    found = suggested_dialect(path, reading, () if reading.header else wanted)
    if found is None or found == used or (found.quote is None and found.separator == used.separator):
        return None
    return f" Its first lines show another dialect: say {found} in the source of the description"


def _as_yaml(character: str) -> str:
    if character == "\t":
        return '"\\t"'
    return f"'{character}'" if character == '"' else f'"{character}"'


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit that Python's CSV reader sets to a field's length, for a while.

    The limit is the process's: one thread at a time lifts it, and none sets it back while another one reads.
    """
    with _FIELD_LIMIT:
        limit = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(limit)
