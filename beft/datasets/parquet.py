"""Parquet whose bytes depend on the rows alone: the same on every machine and on every run."""

import io
from pathlib import Path

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


def read_table(path: Path) -> pa.Table:
    """Read a table.

    Raises:
        InputError: The file is missing, or is no Parquet file.
    """
    try:
        return pq.read_table(path, use_threads=False, memory_map=False, partitioning=None)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
