"""Parquet whose bytes depend on the rows alone: the same on every machine and on every run."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beft.errors import InputError
from beft.files import write_bytes


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all: no schema of pandas or Arrow, no compression, one fixed layout."""
    buffer = io.BytesIO()
    pq.write_table(
        table.combine_chunks().replace_schema_metadata(None),
        buffer,
        row_group_size=100_000,
        version="2.6",
        data_page_version="1.0",
        compression="none",
        use_dictionary=False,
        write_statistics=True,
        store_schema=False,
    )
    write_bytes(path, buffer.getvalue())


def column_values(table: pa.Table, at: int, where: str, *, needed: bool) -> list[Any] | None:
    """The values of a column as Python's; bytes are read as UTF-8.

    Args:
        needed: Whether the description names the column.

    Returns:
        None for a column that is not needed and has no such values.

    Raises:
        InputError: A column that is needed has no such values; the message names it.
    """
    column = table.column(at)
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.large_string())
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError, KeyError) as error:
        if not needed:
            return None
        zone = isinstance(error, KeyError) and not isinstance(error, pa.ArrowException)
        told = f"the time zone {error} is unknown" if zone else str(error).splitlines()[0]
        raise InputError(f"{where}, column {table.column_names[at]!r} ({column.type}) cannot be read: {told}") from None
    return values


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        InputError: The file is missing, or is no Parquet file.
    """
    try:
        with pq.ParquetFile(path, memory_map=False) as file:  # read_table refuses two columns of one name
            return file.read(use_threads=False)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
