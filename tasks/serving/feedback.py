"""True labels of rows that were answered, told later: read from a request or a file, and joined with the answers."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from beft.errors import BeftError, InputError, RowError
from beft.files import is_unicode
from beft.settings import NO_UNICODE
from tasks.serving.traffic import ANSWERS, FEEDBACK, FeedbackRecord, now, read_records, write_records

_FIELDS = ("request_id", "row", "label", "source")
_KEY = ["request_id", "row"]
_COMPARED = (*_KEY, "time", "version", "sha256", "text_key", "tokens", "value", "probabilities")
_LAST_ROW = 2**31 - 1
"""The largest number that a record has room for."""


def read_feedback(records: Sequence[Any], source: str = "") -> list[FeedbackRecord]:
    """Check records of feedback.

    Args:
        records: Objects with ``request_id``, ``label`` and, for a request of several rows, ``row``.
        source: How the rows were selected, where a record does not say it.

    Raises:
        RowError: A record is wrong.
    """
    time, found = now(), []
    for number, record in enumerate(records):
        if not isinstance(record, Mapping) or set(record) - set(_FIELDS):
            raise RowError(number, f"must be an object with the fields {', '.join(_FIELDS)}")
        request_id, label, row = record.get("request_id"), record.get("label"), record.get("row", 0)
        if not isinstance(request_id, str) or not request_id:
            raise RowError(number, "has no request_id")
        if isinstance(label, list) and all(isinstance(one, str) or _is_span(one) for one in label):
            label = json.dumps(label, ensure_ascii=False)
        if isinstance(label, bool) or not isinstance(label, str | int | float) or label == "":
            raise RowError(number, "has no label: a text, a number, or a list of texts or of spans")
        if isinstance(row, str) and re.fullmatch("[0-9]{1,10}", row):
            row = int(row)
        if row in ("", None):
            row = 0
        if type(row) is not int or not 0 <= row <= _LAST_ROW:
            raise RowError(number, f"has {row!r} for its row; rows of a request are numbered from 0 to {_LAST_ROW}")
        told = FeedbackRecord(time, request_id, row, str(label), str(record.get("source") or source))
        for name in ("request_id", "label", "source"):
            if not is_unicode(getattr(told, name)):
                raise RowError(number, f"has, in its {name}, {NO_UNICODE}")
        found.append(told)
    return found


def read_feedback_file(path: Path, source: str = "") -> list[FeedbackRecord]:
    """Read a CSV file with a header, or JSON Lines.

    Raises:
        InputError: The file cannot be read, or a record is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    rows: list[Any] = []
    lines: list[int] = []  # where each row stands in the file
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                rows.append(row)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise InputError(f"{path}: line {reader.line_num + 1} is no CSV: {error}") from None
    else:
        # Not splitlines(): a text in JSON may hold what ends a line elsewhere, such as U+2028.
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError):
                raise InputError(f"{path}: line {number} is no JSON; a CSV file must be called .csv") from None
            lines.append(number)
    try:
        return read_feedback(rows, source)
    except RowError as error:
        raise InputError(f"{path}: line {lines[error.row]} {error.said}") from None


def add_feedback(folder: Path, records: Sequence[FeedbackRecord]) -> int:
    """Keep feedback; how many records there were.

    Raises:
        BeftError: The disk does not take it.
    """
    try:
        if records:
            write_records(folder, FEEDBACK, records)
    except OSError as error:
        raise BeftError(f"the feedback could not be kept in {folder}: {error.strerror or error}") from None
    return len(records)


def unanswered(folder: Path, records: Sequence[FeedbackRecord]) -> list[FeedbackRecord]:
    """The records whose row no kept answer belongs to."""
    ids = {record.request_id for record in records}
    table = read_records(folder, ANSWERS, columns=_KEY, filters=_of_requests(ids))
    known = set(zip(*(table[name].to_pylist() for name in _KEY), strict=True))
    return [record for record in records if (record.request_id, record.row) not in known]


def labelled_answers(folder: Path, name: str, *, since: datetime | None = None) -> pd.DataFrame:
    """The answers to a model's rows whose true label was told, with ``label`` and ``feedback_source``.

    Each has request_id, row, time, version, sha256 of the adapter, text_key, tokens, value and probabilities, by which
    versions are compared. Where a row was told several labels, the last one counts.

    Args:
        name: Of the registered model.
        since: Answers of before are left out.
    """
    told = read_records(folder, FEEDBACK, columns=_FIELDS).to_pandas().drop_duplicates(_KEY, keep="last")
    told = told.rename(columns={"source": "feedback_source"})
    wanted = (pc.field("name") == name) & _of_requests(told["request_id"])
    answers = read_records(folder, ANSWERS, since=since, columns=_COMPARED, filters=wanted).to_pandas()
    found: pd.DataFrame = answers.merge(told, on=_KEY, how="inner")
    return found


def _of_requests(ids: Iterable[str]) -> pc.Expression:
    """What is true of the records of some requests."""
    return pc.field("request_id").isin(pa.array(list(ids), pa.string()))


def told_labels(label: str) -> list[str]:
    """The labels that were told of a row that can have several: those of a JSON list (or of its spans), or the one."""
    try:
        found = json.loads(label)
    except (ValueError, RecursionError):
        return [label]
    if not isinstance(found, list):
        return [label]
    return [str(one["label"] if _is_span(one) else one) for one in found]


def _is_span(value: Any) -> bool:
    """Whether a value is an object with start, end and label."""
    return isinstance(value, Mapping) and {"start", "end", "label"} <= set(value)


def as_of(text: str) -> datetime:
    """A time in ISO form; without a zone it is UTC.

    Raises:
        InputError: It is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no time; write it as 2026-11-28 or 2026-11-28T20:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
