"""Find out how a file of rows is read: its encoding, its dialect, and whether its first line names the columns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beft.datasets.description import canonical
from beft.datasets.reading.conll import is_conll, read_conll
from beft.datasets.reading.raw_data import Values, read_all_columns
from beft.datasets.reading.separated import SEPARATORS, declared_dialect, suggested_dialect
from beft.datasets.reading.text_files import ZeroBytesError, require_format, text_lines
from beft.datasets.sources import Reading
from beft.errors import InputError

_ENCODINGS = ("utf-8", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "cp1252", "latin-1")


class FoundReading(NamedTuple):
    """How a file is read, and what is in it.

    Attributes:
        notes: What somebody should look at, one sentence each.
        repeated: Names that several columns have; none of these columns is among ``columns``.
    """

    reading: Reading
    columns: Values
    notes: list[str]
    repeated: Sequence[str] = ()


def find_reading(path: Path) -> FoundReading:
    """Try to read a file in the ways that its first lines suggest.

    Raises:
        InputError: It cannot be read; the message says why.
    """
    try:
        form = Reading().format_of(path.name)
    except ValueError as error:
        raise InputError(str(error)) from None
    require_format(path, form)
    if form == "parquet":
        columns, repeated = read_all_columns(path, Reading())
        return FoundReading(Reading(), columns, [], repeated)
    encoding = _encoding(path)
    guessed = f"encoding: no UTF-8; taken for {encoding}: look at accented letters"
    notes = [] if encoding.startswith("utf") else [guessed]
    if form == "conll" or (form in ("csv", "tsv") and is_conll(path, encoding)):
        values = {} if form == "conll" else {"format": "conll"}
        reading = Reading.model_validate(values if encoding == "utf-8" else {"encoding": encoding, **values})
        return FoundReading(reading, read_conll(path, reading).columns, [*notes, *_notes_of_conll(path, reading)])
    first: InputError | None = None
    for values in _ways(path, form, encoding):
        reading = Reading.model_validate(values if encoding == "utf-8" else {"encoding": encoding, **values})
        try:
            columns, repeated = read_all_columns(path, reading)
        except InputError as error:
            first = first or error
            continue
        if form in ("csv", "tsv") and _is_data(columns):
            names = tuple(f"column_{number}" for number in range(1, len(columns) + 1))
            reading = reading.model_copy(update={"header": names})
            columns, repeated = read_all_columns(path, reading)
            notes.append("header: the first line of the file is data already, so the columns are numbered")
        elif form in ("csv", "tsv") and (again := _headers(columns)):
            rows = ", ".join(map(str, again[:5]))
            raise InputError(f"{path.name}: the header stands again in row {rows} below it: remove what is no data")
        if reading.ragged:
            notes.append("ragged: some lines have fewer or more fields than the header; 'check' counts them")
        return FoundReading(reading, {name: of for name, of in columns.items() if name.strip()}, notes, repeated)
    assert first is not None
    raise first


def _notes_of_conll(path: Path, reading: Reading) -> list[str]:
    count = read_conll(path, reading).begun_inside
    entities = "entity begins" if count == 1 else "entities begin"
    return [f"{count:,} {entities} with I-, as IOB1 writes them: read as entities of their own"] if count else []


def _encoding(path: Path) -> str:
    first: InputError | None = None
    for encoding in _ENCODINGS:
        try:
            with text_lines(path, Reading(encoding=encoding)) as lines:
                text = "".join(next(lines, "") for _ in range(20))
                for _ in lines:
                    pass
        except InputError as error:
            first = first or error
            continue
        if "\0" not in text and (text.isascii() or not encoding.startswith("utf-16-") or _is_mostly_letters(text)):
            return encoding
    assert first is not None
    raise InputError(f"{path.name} holds zero bytes: remove them") if isinstance(first, ZeroBytesError) else first


def _is_mostly_letters(text: str) -> bool:
    """Whether text is no chance product of reading bytes in the wrong order: its line ends are there."""
    return "\n" in text or "\r" in text


def _ways(path: Path, form: str, encoding: str) -> Iterator[dict[str, Any]]:
    """The settings of reading that come into question, the likeliest first."""
    if form not in ("csv", "tsv"):
        yield {}
        return
    dialect = suggested_dialect(path, Reading(encoding=encoding))
    if dialect is None:
        separators = ", ".join(map(repr, SEPARATORS))
        raise InputError(f"{path.name}: none of the separators {separators} makes two columns of its first lines")
    usual = declared_dialect(Reading(), form)
    values: dict[str, Any] = {} if dialect.separator == usual.separator else {"separator": dialect.separator}
    if dialect.quote == "'":
        values["quote"] = "'"
    elif dialect.quote and not usual.quote:
        values["quotes"] = True
    plain = {name: value for name, value in values.items() if name != "quote"} | {"quotes": False}
    yield from (values, plain, values | {"ragged": True}, plain | {"ragged": True})


def _is_data(columns: Values) -> bool:
    """Whether a name of a column is one of the few values that it holds: then the first line is no header.

    Lines that are the first one again do not count: a header stands again in files that were joined.
    """
    others = [row for row in zip(*columns.values(), strict=True) if row != tuple(columns)]
    for name, values in zip(columns, zip(*others, strict=True), strict=False):
        distinct = {canonical(value) for value in values}
        if name.strip() and len(distinct) <= len(values) // 2 and canonical(name) in distinct:
            return True
    return False


def _headers(columns: Values) -> list[int]:
    """The rows, from 1 on, that are the header again."""
    return [number for number, row in enumerate(zip(*columns.values(), strict=True), 1) if row == tuple(columns)]
