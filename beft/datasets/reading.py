"""Read the rows of a raw source: every column, every value as the file has it."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from beft.datasets.description import DatasetError, Description, canonical
from beft.datasets.layouts import LayoutError, flattened
from beft.datasets.loaders import RECORD
from beft.datasets.parquet import read_table
from beft.datasets.sources import Format, HubSource, Reading, Source
from beft.errors import InputError
from beft.files import read_json
from beft.names import unknown_name

Values = dict[str, list[Any]]


@dataclass(frozen=True)
class RawFile:
    """The rows of one raw file that belong to the dataset.

    Attributes:
        split: train or test.
        name: The file's name.
        columns: The values of each column. From CSV and TSV all of them are text, and nothing is taken for null.
        numbers: The number of each row in the file; the first row of data is 1.
    """

    split: str
    name: str
    columns: Values
    numbers: list[int]


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
    columns = _READERS[reading.format_of(path.name)](path, reading)
    for name in rename:
        if name not in columns:
            raise InputError(f"{path.name}: {unknown_name(name, columns, 'column')}")
    columns = {rename.get(name, name): values for name, values in columns.items() if name not in rename.values()}
    for name in source.where:
        if name not in columns:
            raise InputError(f"{path.name}, which 'where' filters: {unknown_name(name, columns, 'column')}")
    kept = list(range(max(map(len, columns.values()), default=0)))
    for name, wanted in source.where.items():
        kept = [row for row in kept if canonical(columns[name][row]) == canonical(wanted)]
    return RawFile(
        entry["split"],
        path.name,
        {name: [values[row] for row in kept] for name, values in columns.items()},
        [row + 1 for row in kept],
    )


def _reading_of(entry: dict[str, Any], source: Source) -> tuple[Reading, dict[str, str]]:
    """How a file is read, and the names of its columns that are others in the description."""
    if not isinstance(source, HubSource):
        return source, {}
    local = source.local_file(str(entry.get("name")))
    if local is not None:
        return local, local.rename
    return Reading(format="parquet", layout=source.layout), {}


def _read_csv(path: Path, reading: Reading) -> Values:
    return _read_separated(path, reading, ",", quotes=reading.quotes is not False)


def _read_tsv(path: Path, reading: Reading) -> Values:
    return _read_separated(path, reading, "\t", quotes=reading.quotes is True)


def _read_separated(path: Path, reading: Reading, separator: str, *, quotes: bool) -> Values:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    with _text_of(path, reading) as lines, _fields_of_any_length():
        reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
        try:
            header = list(reading.header) or next(reader, [])
            rows: list[list[str]] = []
            for fields in reader:
                if len(fields) == len(header) or (reading.ragged and len(fields) > len(header)):
                    rows.append(fields)
                elif fields and not reading.ragged:  # an empty line is no row
                    raise InputError(
                        f"{path.name}, row {len(rows) + 1} (line {reader.line_num}): it has {len(fields)} fields, not "
                        f"the {len(header)} of the header"
                    )
        except csv.Error as error:
            raise InputError(f"{path.name}, line {reader.line_num}: {error}") from None
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise InputError(f"{path.name}: the column {twice[0]!r} stands in the header twice")
    return {name: [fields[at] for fields in rows] for at, name in enumerate(header)}


def _read_jsonl(path: Path, reading: Reading) -> Values:
    rows: list[dict[str, Any]] = []
    with _text_of(path, reading) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path.name}, line {number}: it is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path.name}, line {number}: it must be a JSON object, not {type(row).__name__}")
            rows.append(row)
    return _columns(path, rows, reading)


def _read_json(path: Path, reading: Reading) -> Values:
    with _text_of(path, reading) as lines:
        try:
            document = json.loads("".join(lines))
        except json.JSONDecodeError as error:
            raise InputError(f"{path.name}: it is not JSON: {error}") from None
    if reading.layout is None and not (isinstance(document, list) and all(isinstance(row, dict) for row in document)):
        raise InputError(f"{path.name}: it must be a list of JSON objects; where it is nested, say its 'layout'")
    return _columns(path, document, reading)


def _read_parquet(path: Path, reading: Reading) -> Values:
    table = read_table(path)
    if reading.layout is not None:
        return _columns(path, table.to_pylist(), reading)
    values: Values = table.to_pydict()
    return values


def _columns(path: Path, document: Any, reading: Reading) -> Values:
    """The columns of rows, in which a layout writes out a nested document."""
    if reading.layout is not None:
        try:
            document = flattened(reading.layout, document)
        except LayoutError as error:
            raise InputError(f"{path.name} is not in the layout {reading.layout!r}: {error}") from None
    names = dict.fromkeys(name for row in document for name in row)
    return {name: [row.get(name) for row in document] for name in names}


_READERS: dict[Format, Callable[[Path, Reading], Values]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
}


@contextmanager
def _text_of(path: Path, reading: Reading) -> Iterator[Iterator[str]]:
    """The lines of a text file, line ends as they are, without a byte order mark."""
    encoding = "utf-8-sig" if reading.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else reading.encoding
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path, "rt", encoding=encoding, newline="") as file:
                yield file
        else:
            with path.open(encoding=encoding, newline="") as file:
                yield file
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} cannot be read as a gzip file: {error}") from None
    except LookupError:
        raise InputError(f"{path.name}: {reading.encoding!r} is no encoding that Python knows") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path.name} is not {reading.encoding} at byte {error.start}: say its encoding in the description"
        ) from None


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit that Python's CSV reader sets to a field's length, for the whole process, for a while."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
