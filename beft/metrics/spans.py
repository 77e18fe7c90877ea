"""Metrics of labelled spans of text (entities), strict: a span is right where start, end and label all are.

The counts are those of the CoNLL shared tasks (Tjong Kim Sang and De Meulder, 2003, section 2.3): over all spans of all
rows together.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError

Floats = NDArray[np.float64]


class Span(NamedTuple):
    """A labelled stretch of a text.

    Attributes:
        start: Its first character, counted from 0 in Unicode characters.
        end: The character behind its last one.
        label: The number of its label.
        score: How sure a prediction is, 0 to 1.
    """

    start: int
    end: int
    label: int
    score: float = 1.0


class SpanCounts(NamedTuple):
    """Sums of row weights, each [...]: spans that are right, predicted spans, true spans."""

    hits: Floats
    predicted: Floats
    true: Floats


def span_parts(truth: Sequence[Sequence[Any]], predicted: Sequence[Sequence[Any]]) -> Floats:
    """What each row adds to the counts [rows, 3].

    Args:
        truth: The true spans of each row; what follows start, end and label is not read. A span counts once.
        predicted: Likewise.
    """
    parts = np.zeros((len(truth), 3))
    for row, (of_truth, of_prediction) in enumerate(zip(truth, predicted, strict=True)):
        true, found = ({tuple(one[:3]) for one in spans} for spans in (of_truth, of_prediction))
        parts[row] = len(true & found), len(found), len(true)
    return parts


def entity_f1(counts: SpanCounts) -> Floats:
    """The F1 of all spans together; 0 where no span is true or predicted."""
    return _share(2 * counts.hits, counts.predicted + counts.true)


def entity_precision(counts: SpanCounts) -> Floats:
    """The share of predicted spans that are right; 0 where none is predicted."""
    return _share(counts.hits, counts.predicted)


def entity_recall(counts: SpanCounts) -> Floats:
    """The share of true spans that are predicted; 0 where there is none."""
    return _share(counts.hits, counts.true)


def _share(part: Floats, whole: Floats) -> Floats:
    part, whole = np.asarray(part), np.asarray(whole)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def span_confidence(scores: Sequence[float]) -> float:
    """How sure the answer to a text is: the mean score of its spans, 1 where there is none."""
    return float(np.mean(scores)) if len(scores) else 1.0


def checked_spans(values: Any) -> list[list[tuple[int, int, int]]]:
    """Rows of spans as plain triples: start, end and the number of the label.

    Raises:
        InputError: Something else than lists of spans, or a span that is empty or begins before its text.
    """
    rows = []
    for number, spans in enumerate(values):
        if isinstance(spans, str) or not isinstance(spans, Sequence | np.ndarray):
            raise InputError(f"the spans of row {number} must be a list, not {spans!r}")
        rows.append([_triple(span, number) for span in spans])
    return rows


def _triple(span: Any, row: int) -> tuple[int, int, int]:
    try:
        start, end, label = (int(value) for value in span[:3])
    except (TypeError, ValueError, IndexError):
        raise InputError(f"a span of row {row} must be start, end and the number of a label, not {span!r}") from None
    if not 0 <= start < end or label < 0:
        raise InputError(f"a span of row {row} is {start} to {end} with label {label}: it must begin before it ends")
    return start, end, label
