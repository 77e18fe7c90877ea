"""Parquet whose bytes depend on the rows alone."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beft.datasets.reading.parquet import column_values, read_table, write_table
from beft.errors import InputError


def test_the_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    plain = pa.table({"id": ["a", "b", "c"], "label": pa.array([0, 1, 0], pa.int32())})
    chunked = pa.concat_tables([plain.slice(0, 1), plain.slice(1)])
    frame = pa.Table.from_pandas(pd.DataFrame({"id": ["a", "b", "c"], "label": [0, 1, 0]}), schema=plain.schema)
    for name, table in (("plain", plain), ("chunked", chunked), ("frame", frame)):
        write_table(tmp_path / name, table)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "chunked").read_bytes()
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "frame").read_bytes()
    metadata = pq.read_metadata(tmp_path / "frame")
    assert metadata.metadata is None
    assert metadata.row_group(0).column(0).compression == "UNCOMPRESSED"
    assert read_table(tmp_path / "frame").equals(plain)


def test_what_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="there is no file"):
        read_table(tmp_path / "y.parquet")


def test_times_of_a_zone_that_nobody_knows() -> None:
    table = pa.table({"when": pa.array([1, 2], pa.timestamp("us", tz="Mars/Phobos")), "text": ["a", "b"]})
    assert column_values(table, 0, "x.parquet", needed=False) is None
    with pytest.raises(InputError, match=r"column 'when' .* cannot be read: the time zone 'Mars/Phobos' is unknown"):
        column_values(table, 0, "x.parquet", needed=True)
