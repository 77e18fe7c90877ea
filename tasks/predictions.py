"""The predictions of every method, row by row, as one Parquet file: what promotion and error analysis read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from beft.files import write_bytes


def write_predictions(
    path: Path,
    ids: Mapping[str, Sequence[str]],
    truth: Mapping[str, NDArray[np.int64]],
    probabilities: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> None:
    """Write one row a method, split and text: method, split, id, label, predicted, probabilities (a list).

    Args:
        ids: Split -> the ids of its rows.
        truth: Split -> their label indices.
        probabilities: Method -> split -> [rows, labels].
    """
    columns: dict[str, list[object]] = {
        name: [] for name in ("method", "split", "id", "label", "predicted", "probabilities")
    }
    for method, by_split in probabilities.items():
        for split, values in by_split.items():
            columns["method"] += [method] * len(values)
            columns["split"] += [split] * len(values)
            columns["id"] += ids[split]
            columns["label"] += truth[split].tolist()
            columns["predicted"] += values.argmax(-1).tolist()
            columns["probabilities"] += values.tolist()
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink, compression="zstd", store_schema=False)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path, method: str, split: str) -> NDArray[np.float64]:
    """The probabilities [rows, labels] of one method on one split, in the order of the split's rows."""
    table = parquet.read_table(path, filters=[("method", "=", method), ("split", "=", split)])
    return np.array(table["probabilities"].to_pylist(), dtype=np.float64)
