"""The predictions of every method, row by row, as one Parquet file: what promotion and error analysis read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from beft.errors import InputError
from beft.files import write_bytes
from beft.metrics.label_sets import SET_FROM
from beft.metrics.spans import Span
from beft.metrics.truth import Truth

Predictions = NDArray[np.float64] | Sequence[str] | Sequence[Sequence[Span]]

_SPANS = pa.list_(
    pa.struct([("start", pa.int64()), ("end", pa.int64()), ("label", pa.int64()), ("score", pa.float64())])
)

WITHOUT_BIASES = "without_biases"
"""Stands for a method: the target's head over the frozen base, a row of the merge matrix."""


def write_predictions(
    path: Path,
    ids: Mapping[str, Sequence[str]],
    truth: Mapping[str, NDArray[np.int64] | Truth],
    predictions: Mapping[str, Mapping[str, Predictions]],
) -> None:
    """Write one row a method, split and text: method, split, id, then the truth, then what was predicted.

    The truth is what there is of ``label``, ``labels`` (a list), ``spans`` (a list), ``value``, ``answers`` (a list)
    and ``group``. What was predicted is in ``predicted``: the index of the most probable label, the list of those that
    are given, the list of spans (start, end, label, score), a value, or a text; beside labels stand the
    ``probabilities`` (a list), or of labels that are given the scores, from 0.5 on.

    Args:
        ids: Split -> the ids of its rows.
        truth: Split -> their label indices, or a ``Truth``.
        predictions: Method -> split -> probabilities [rows, labels], values [rows], texts, or spans.
    """
    columns: dict[str, list[Any]] = {}
    for method, by_split in predictions.items():
        for split, predicted in by_split.items():
            part = {
                "method": [method] * len(predicted),
                "split": [split] * len(predicted),
                "id": list(ids[split]),
                **_true_columns(truth[split]),
                **_predicted_columns(predicted, sets=_has_sets(truth[split])),
            }
            for name, values in part.items():
                columns.setdefault(name, []).extend(values)
    sink = pa.BufferOutputStream()
    of_spans = ("predicted", "spans") if "spans" in columns else ()
    arrays = {name: pa.array(values, _SPANS if name in of_spans else None) for name, values in columns.items()}
    parquet.write_table(pa.table(arrays), sink, compression="zstd", store_schema=False)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path, method: str, split: str) -> NDArray[np.float64] | list[str] | list[list[Span]]:
    """What one method predicted on one split, in the order of the split's rows, in the form in which it was written.

    Returns:
        Probabilities [rows, labels], values [rows], texts, or spans.

    Raises:
        InputError: There are no predictions of that method on that split.
    """
    table = _part(path, method, split)
    if not len(table):
        raise InputError(f"{path}: no predictions of {method!r} on split {split!r}")
    predicted = table["probabilities" if "probabilities" in table.column_names else "predicted"].to_pylist()
    kind = table.schema.field("predicted").type
    if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
        return [[Span(**span) for span in of_row] for of_row in predicted]
    if isinstance(predicted[0], str):
        return [str(text) for text in predicted]
    return np.array(predicted, dtype=np.float64)


def has_predictions(path: Path, method: str, split: str) -> bool:
    """Whether there are predictions of a method on a split."""
    return len(_part(path, method, split)) > 0


def _part(path: Path, method: str, split: str) -> pa.Table:
    return parquet.read_table(path, filters=[("method", "=", method), ("split", "=", split)])


def _true_columns(truth: NDArray[np.int64] | Truth) -> dict[str, list[Any]]:
    if not isinstance(truth, Truth):
        return {"label": truth.tolist()}
    columns: dict[str, list[Any]] = {}
    if truth.labels is not None:
        columns["label"] = np.asarray(truth.labels, dtype=np.int64).tolist()
    if truth.label_sets is not None:
        columns["labels"] = [np.flatnonzero(of_row).tolist() for of_row in np.asarray(truth.label_sets)]
    if truth.spans is not None:
        columns["spans"] = [_as_structs(of_row) for of_row in truth.spans]
    if truth.values is not None:
        columns["value"] = np.asarray(truth.values, dtype=np.float64).tolist()
    if truth.answers is not None:
        columns["answers"] = [list(answers) for answers in truth.answers]
    if truth.groups is not None:
        columns["group"] = list(truth.groups)
    return columns


def _has_sets(truth: NDArray[np.int64] | Truth) -> bool:
    return isinstance(truth, Truth) and truth.label_sets is not None


def _predicted_columns(predicted: Predictions, *, sets: bool) -> dict[str, list[Any]]:
    if not isinstance(predicted, np.ndarray):
        return {"predicted": [one if isinstance(one, str) else _as_structs(one) for one in predicted]}
    if predicted.ndim == 1:
        return {"predicted": predicted.tolist()}
    if sets:
        given = [np.flatnonzero(of_row).tolist() for of_row in predicted >= SET_FROM]
        return {"predicted": given, "probabilities": predicted.tolist()}
    return {"predicted": predicted.argmax(-1).tolist(), "probabilities": predicted.tolist()}


def _as_structs(spans: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The spans of a row as Parquet has them; those that are true have no score."""
    return [dict(zip(("start", "end", "label", "score"), span, strict=False)) for span in spans]
