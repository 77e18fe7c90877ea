"""MLflow's scoring protocol: ``POST /invocations``, as the server of a single MLflow model takes it.

The adapter is named by ``params.adapter`` for the whole request, or by a column ``adapter`` for each row, so that one
request may mix adapters. The columns of an answer are those of the MLflow model of the same adapter, then ``adapter``,
``version``, ``sha256`` and ``truncated``.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from beft.errors import InputError, RowError
from beft.serving.directory import Directory
from beft.serving.service import Question, RowAnswer

FORMS = ("inputs", "dataframe_split", "dataframe_records", "instances")
COLUMNS = ("text", "text_pair", "choices", "adapter", "version")


def read_questions(body: bytes, content_type: str, directory: Directory) -> list[Question]:
    """The rows of a request.

    Args:
        content_type: ``application/json``, or ``text/csv`` with a header line.
        directory: What is served: a request may leave the adapter out where there is but one name.

    Raises:
        InputError: The body is not of one of the forms, or a row is wrong.
    """
    if content_type.split(";")[0].strip() == "text/csv":
        records = _read_csv(body)
        params: dict[str, Any] = {}
    else:
        records, params = _read_json(body)
    usual = params.get("adapter")
    if usual is not None and not isinstance(usual, str):
        raise InputError("params.adapter must be a text: the name of an adapter")
    if usual is None:
        names = {one.name for one in directory.served}
        usual = names.pop() if len(names) == 1 else None
    return [_question(number, record, usual) for number, record in enumerate(records)]


def prediction(answer: RowAnswer) -> dict[str, Any]:
    """One row of the response."""
    row = dict(answer.predicted)
    if "label" in row or "labels" in row:
        row |= {f"probability_{name}": value for name, value in row.pop("probabilities").items()}
    return row | {
        "adapter": answer.served.name,
        "version": answer.served.version,
        "sha256": answer.served.adapter.sha256,
        "truncated": answer.truncated,
    }


def _read_csv(body: bytes) -> list[dict[str, Any]]:
    try:
        rows = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the body is no CSV in UTF-8: {error}") from None
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise RowError(number, "has more or fewer fields than the header")
    return rows


def _read_json(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"the body must be a JSON object with one of {', '.join(FORMS)}")
    forms = [name for name in FORMS if name in value]
    if len(forms) != 1 or set(value) - {*FORMS, "params"}:
        raise InputError(
            f"the body must have exactly one of {', '.join(FORMS)}, and params where wanted; it has "
            f"{', '.join(sorted(value)) or 'nothing'}"
        )
    params = value.get("params") or {}
    if not isinstance(params, dict):
        raise InputError('params must be a JSON object, such as {"adapter": "NAME"}')
    [form] = forms
    return (_split(value[form]) if form == "dataframe_split" else _records(value[form], form)), params


def _split(value: Any) -> list[dict[str, Any]]:
    columns = value.get("columns") if isinstance(value, dict) else None
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(columns, list) or not isinstance(data, list):
        raise InputError('dataframe_split must be {"columns": [...], "data": [[...], ...]}')
    if wrong := [column for column in columns if not isinstance(column, str)]:
        raise InputError(f"dataframe_split has the column {wrong[0]!r}; the names of columns are texts")
    for number, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise RowError(number, f"does not have the {len(columns)} fields of the columns")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _records(value: Any, form: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):  # a column a name
        columns = {name: column if isinstance(column, list) else [column] for name, column in value.items()}
        if len({len(column) for column in columns.values()}) > 1:
            raise InputError(f"the columns of {form} are not of one length")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        raise InputError(f"{form} must be a list of texts or of objects")
    return [row if isinstance(row, dict) else {"text": row} for row in value]


def _question(number: int, record: Mapping[str, Any], usual: str | None) -> Question:
    if unknown := set(record) - set(COLUMNS):
        raise RowError(number, f"has the column {sorted(map(str, unknown))[0]!r}; known are {', '.join(COLUMNS)}")
    record = {name: None if _is_missing(value) else value for name, value in record.items()}
    adapter = record.get("adapter") or usual
    if adapter is None:
        raise RowError(number, "names no adapter: name one in params.adapter, or in a column adapter")
    version = record.get("version")
    choices = record.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise RowError(number, "has choices that are no list")
    for name, value in (("text", record.get("text")), ("adapter", adapter)):
        if not isinstance(value, str):
            raise RowError(number, f"has {value!r} for its {name}; it must be a string")
    return Question(
        text=record["text"],
        adapter=adapter,
        version=None if version is None else str(version),
        pair=record.get("text_pair"),
        choices=None if choices is None else tuple(choices),
    )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def predictions(answers: Sequence[RowAnswer]) -> list[dict[str, Any]]:
    """The rows of the response."""
    return [prediction(answer) for answer in answers]
