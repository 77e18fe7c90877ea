"""The labelled spans of a row, as files have them, checked against its text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from beft.datasets.description import Description, canonical
from beft.datasets.reading.raw_data import RawFile

Spans = tuple[tuple[int, int, int], ...]
_SHOWN = 5


def checked_spans(file: RawFile, description: Description, problems: list[str]) -> list[Spans | None]:
    """Start, end and number of the label of each row's spans, in order; None where one is wrong, and a problem said."""
    column, texts = str(description.columns.spans), file.columns[description.columns.text]
    numbers = description.label_numbers
    found: list[Spans | None] = []
    wrong: list[tuple[int, str]] = []
    for number, text, value in zip(file.numbers, texts, file.columns[column], strict=True):
        problem = span_problem(text, value, numbers)
        if problem:
            wrong.append((number, problem))
        spans = [] if problem else spans_in(value) or []
        found.append(None if problem else tuple((start, end, numbers[canonical(name)]) for start, end, name in spans))
    for number, problem in wrong[:_SHOWN]:
        problems.append(f"{file.name}, column {column!r}, {file.unit} {number:,}: {problem}")
    if len(wrong) > _SHOWN:
        problems.append(f"{file.name}, column {column!r}: {len(wrong) - _SHOWN:,} more rows whose spans are wrong")
    return found


def spans_in(value: Any) -> list[tuple[int, int, Any]] | None:
    """Start, end and label of each span of a row, by their places; None where they are no list of spans.

    A span is an object with ``start``, ``end`` and ``label``, or a list of the three; the list may be written as JSON,
    as a CSV file has it, and an empty text there is a row without spans.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list | tuple):
        return None
    spans = []
    for one in value:
        parts = [one.get(name) for name in ("start", "end", "label")] if isinstance(one, Mapping) else one
        if not isinstance(parts, list | tuple) or len(parts) != 3:
            return None
        start, end, label = parts
        whole = all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end))
        if not whole or not isinstance(label, str | int) or isinstance(label, bool):
            return None
        spans.append((int(start), int(end), label))
    return sorted(spans, key=lambda span: span[:2])


def span_problem(text: Any, value: Any, labels: Mapping[str, int] | None) -> str:
    """What is wrong with the spans of a row, and what to do; the empty text where nothing is.

    Args:
        labels: By the (canonical) labels that there are; None: any.
    """
    spans = spans_in(value)
    if spans is None:
        hint = "; a row without spans has an empty list" if value is None else ""
        return f'no list of spans: write [{{"start": 0, "end": 4, "label": "person"}}, …]{hint}'
    return next(_wrong(text if isinstance(text, str) else "", spans, labels), "")


def _wrong(text: str, spans: Sequence[tuple[int, int, Any]], labels: Mapping[str, int] | None) -> Iterator[str]:
    before = (0, 0)
    for start, end, label in spans:
        said = f"the span {start} to {end} ({label})"
        if end <= start:
            yield f"{said} ends before it begins: 'end' is the number of the character behind its last one, from 0"
        if start < 0 or end > len(text):
            yield (
                f"{said} lies outside of the text, which has {len(text):,} characters: count characters (not bytes) "
                "from 0, in the text as the file has it"
            )
        if start < before[1]:
            yield (
                f"{said} overlaps the span {before[0]} to {before[1]}: a word has one label, so leave out one of them"
            )
        if labels is not None and canonical(label) not in labels:
            yield f"{label!r} is none of the labels {', '.join(labels)}: correct it, or add it to labels"
        before = start, end
