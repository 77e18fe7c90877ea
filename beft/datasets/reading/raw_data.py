"""Read the rows of a raw source: every column, every value as the file has it."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from beft.datasets.description import DatasetError, Description, canonical
from beft.datasets.layouts.registry import LayoutError, flattened
from beft.datasets.reading.conll import read_conll
from beft.datasets.reading.loaders import RECORD
from beft.datasets.reading.parquet import column_values, read_table
from beft.datasets.reading.raw_columns import column_positions, repeated_names
from beft.datasets.reading.separated import read_separated
from beft.datasets.reading.text_files import require_format, text_lines
from beft.datasets.sources import Format, HubSource, Reading, Source
from beft.errors import InputError
from beft.files import is_unicode, read_json
from beft.names import unknown_name

Values = dict[str, list[Any]]
Unit = Literal["line", "row"]
_SHOWN = 5

log = logging.getLogger("beft.datasets")


@dataclass(frozen=True)
class RawFile:
    """The rows of one raw file that belong to the dataset.

    Attributes:
        split: train or test.
        name: The file's name.
        columns: The values of each column. From CSV and TSV all of them are text, and nothing is taken for null.
        numbers: Where each row stands in the file: the line that it begins in, or its number; the first is 1.
        unit: Which of them: a line of CSV, TSV, JSON Lines or CoNLL, or a row of any other format or of a layout.
        short: The lines with too few fields, which ``ragged`` takes for no rows.
        cut: The lines with too many, whose last fields ``ragged`` does not read.
    """

    split: str
    name: str
    columns: Values
    numbers: list[int]
    unit: Unit = "row"
    short: Sequence[int] = ()
    cut: Sequence[int] = ()

    def listed(self, numbers: Sequence[int]) -> str:
        """The first few of some rows' numbers, and how many there are."""
        shown = ", ".join(f"{number:,}" for number in numbers[:_SHOWN])
        if len(numbers) == 1:
            return f"{self.unit} {shown}"
        return f"{len(numbers):,} {self.unit}s: {shown}" + (", …" if len(numbers) > _SHOWN else "")


@dataclass(frozen=True)
class RawData:
    """The raw source of a dataset, read.

    Attributes:
        record: The content of its ``source.json``.
    """

    description: Description
    record: dict[str, Any]
    files: list[RawFile]


def read_raw(folder: Path) -> RawData:
    """Read the folder that ``fetch_source`` wrote.

    Raises:
        DatasetError: Files cannot be read as what they should be; all of them at once.
        InputError: The folder holds no raw source.
    """
    try:
        record = read_json(folder / RECORD)
        name, entries = record["dataset"], record["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} holds no raw source: there is no valid {RECORD} in it; fetch it again") from None
    description = Description.read(folder / f"{name}.yaml")
    files, problems = [], []
    for entry in entries:
        try:
            files.append(_read_file(folder / entry["path"], entry, description))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError(name, problems)
    return RawData(description, record, files)


def _read_file(path: Path, entry: dict[str, Any], description: Description) -> RawFile:
    source = description.source
    reading, rename = _reading_of(entry, source)
    form = reading.format_of(path.name)
    require_format(path, form)
    of_file = {name: other for other, name in rename.items()}
    wanted = [of_file.get(name, name) for name in dict.fromkeys((*description.columns.names, *source.where))]
    read = _READERS[form](path, reading, wanted)
    columns = read.columns
    for name in rename:
        if name not in columns:
            raise InputError(f"{path.name}: {unknown_name(name, columns, 'column')}")
    columns = {rename.get(name, name): values for name, values in columns.items() if name not in rename.values()}
    for name in source.where:
        if name not in columns:
            raise InputError(f"{path.name}, which 'where' filters: {unknown_name(name, columns, 'column')}")
    kept = list(range(max(map(len, columns.values()), default=0)))
    for name, value in source.where.items():
        kept = [row for row in kept if canonical(columns[name][row]) == canonical(value)]
    file = RawFile(
        entry["split"],
        path.name,
        {name: [values[row] for row in kept] for name, values in columns.items()},
        [read.numbers[row] for row in kept],
        read.unit,
        read.short,
        read.cut,
    )
    _require_unicode(file, [name for name in description.columns.names if name in columns])
    return file


def read_columns(path: Path, reading: Reading) -> Values:
    """Every column of a file that has a name of its own, with its values.

    Raises:
        InputError: The file cannot be read as what its name or ``reading`` says.
    """
    return read_all_columns(path, reading)[0]


def read_all_columns(path: Path, reading: Reading) -> tuple[Values, Sequence[str]]:
    """Every column of a file that has a name of its own, with its values; and the names that several columns have.

    Raises:
        InputError: The file cannot be read as what its name or ``reading`` says.
    """
    form = reading.format_of(path.name)
    require_format(path, form)
    read = _READERS[form](path, reading, ())
    return read.columns, read.repeated


def _reading_of(entry: dict[str, Any], source: Source) -> tuple[Reading, dict[str, str]]:
    """How a file is read, and the names of its columns that are others in the description."""
    if not isinstance(source, HubSource):
        return source, {}
    local = source.local_file(str(entry.get("name")))
    if local is not None:
        return local, local.rename
    return Reading(format="parquet", layout=source.layout), {}


def _require_unicode(file: RawFile, columns: Sequence[str]) -> None:
    for name in columns:
        broken = [at for at, value in zip(file.numbers, file.columns[name], strict=True) if not is_unicode(value)]
        if broken:
            raise InputError(
                f"{file.name}, column {name!r}: half a surrogate pair, which is no valid Unicode, in "
                f"{file.listed(broken)} (an emoji cut in two, perhaps): correct or remove the text"
            )


class _Read(NamedTuple):
    """What a file holds; the attributes are those of ``RawFile``, and the names that several of its columns have."""

    columns: Values
    numbers: list[int]
    unit: Unit = "row"
    short: Sequence[int] = ()
    cut: Sequence[int] = ()
    repeated: Sequence[str] = ()


def _read_csv(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    return _read_fields(path, reading, "csv", wanted)


def _read_tsv(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    return _read_fields(path, reading, "tsv", wanted)


def _read_fields(path: Path, reading: Reading, form: str, wanted: Sequence[str]) -> _Read:
    table = read_separated(path, reading, form, wanted)
    places = column_positions(table.header, wanted, path.name)
    columns = {name: [fields[at] for fields in table.rows] for name, at in places.items()}
    return _Read(columns, table.lines, "line", table.short, table.cut, repeated_names(table.header))


def _read_jsonl(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    with text_lines(path, reading) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            text = line.rstrip().removeprefix("\ufeff")  # of files that were joined
            row = _json(text, f"{path.name}, line {number}", reading, wanted)
            if not isinstance(row, dict):
                hint = " (where the file is one list of objects, say 'format: json')" if isinstance(row, list) else ""
                kind = type(row).__name__
                raise InputError(f"{path.name}, line {number}: it must be a JSON object, not {kind}{hint}")
            rows.append(row)
            numbers.append(number)
    return _from_rows(path, rows, reading, wanted, numbers)


def _read_json(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    with text_lines(path, reading) as lines:
        text = "".join(lines)
    try:
        document = _json(text, path.name, reading, wanted)
    except _SeveralDocuments:
        return _read_jsonl(path, reading, wanted)  # JSON Lines in a file called .json
    if reading.layout is None and not (isinstance(document, list) and all(isinstance(row, dict) for row in document)):
        lists = [name for name, one in document.items() if isinstance(one, list)] if isinstance(document, dict) else []
        found = f", and there is one under {lists[0]!r}: write that alone" if lists else ""
        raise InputError(
            f"{path.name}: it must be a list of JSON objects, one a row (pandas: to_json(orient='records')){found}; "
            "where it is nested, say its 'layout'"
        )
    return _from_rows(path, document, reading, wanted)


class _SeveralDocuments(InputError):
    """A text holds a JSON document and more behind it."""


def _json(text: str, where: str, reading: Reading, wanted: Sequence[str]) -> Any:
    """Parse JSON.

    Raises:
        InputError: It is none, or one of its rows has a column that the description names twice.
    """

    twice: list[tuple[dict[str, Any], list[str]]] = []  # objects in which a name stands twice, and all their names

    def found(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            twice.append((values, [name for name, _ in pairs]))
        return values

    try:
        document = json.loads(text, object_pairs_hook=found)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise _SeveralDocuments(
                f"{where}: there is more behind the JSON value, at character {error.colno}"
            ) from None
        line = f", line {error.lineno}" if error.lineno > 1 else ""
        hint = "" if text.lstrip().startswith(("{", "[")) else " (where the file is no JSON, say its 'format')"
        raise InputError(f"{where}{line}: it is not JSON: {error.msg} at character {error.colno}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: its JSON cannot be read: {error}") from None
    rows = set(map(id, document if isinstance(document, list) else [document]))
    for values, names in twice:
        if id(values) in rows and reading.layout is None:
            column_positions(names, wanted, where)
    return document


def _read_parquet(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    try:
        table = read_table(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None
    if reading.layout is not None:
        names = dict(enumerate(table.column_names))
        found = {name: column_values(table, at, path.name, needed=False) for at, name in names.items()}
        there = {name: values for name, values in found.items() if values is not None}
        rows = [dict(zip(there, row, strict=True)) for row in zip(*there.values(), strict=True)]
        return _from_rows(path, rows, reading, wanted)
    columns = {
        name: column_values(table, at, path.name, needed=name in wanted)
        for name, at in column_positions(table.column_names, wanted, path.name).items()
    }
    known = {name: values for name, values in columns.items() if values is not None}
    return _Read(known, list(range(1, table.num_rows + 1)), repeated=repeated_names(table.column_names))


def _read_conll(path: Path, reading: Reading, wanted: Sequence[str]) -> _Read:
    found = read_conll(path, reading)
    if found.begun_inside:
        log.warning(
            "%s: %d entities begin with I-, as IOB1 writes them: read as entities of their own (IOB2 would write B-)",
            path.name,
            found.begun_inside,
        )
    return _Read(found.columns, found.lines, "line")


def _from_rows(
    path: Path, document: Any, reading: Reading, wanted: Sequence[str], lines: list[int] | None = None
) -> _Read:
    """The columns of rows, in which a layout writes out a nested document.

    Args:
        lines: The line of the file that each row stands in, where there is one for each.
    """
    if reading.layout is not None:
        lines = None
        try:
            document = flattened(reading.layout, document)
        except LayoutError as error:
            raise InputError(f"{path.name} is not in the layout {reading.layout!r}: {error}") from None
    names = [name for name in dict.fromkeys(name for row in document for name in row) if is_unicode(name)]
    places = column_positions(names, wanted, path.name)
    columns = {name: [row.get(names[at]) for row in document] for name, at in places.items()}
    return _Read(columns, list(range(1, len(document) + 1))) if lines is None else _Read(columns, lines, "line")


_READERS: dict[Format, Callable[[Path, Reading, Sequence[str]], _Read]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "conll": _read_conll,
}
