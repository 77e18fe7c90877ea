"""Find the column of a file that holds labelled spans of the text, and the text that they are of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beft.datasets.description import canonical
from beft.datasets.drafting.label_sets import MOST_LABELS
from beft.datasets.reading.raw_data import Values
from beft.datasets.spans import span_problem, spans_in

_NAMES = "spans entities ner annotations label labels tags targets"


@dataclass(frozen=True)
class SpanColumn:
    """A column of labelled spans.

    Attributes:
        texts: The columns whose texts all spans lie in.
        counts: Rows with a span of each label, in the order of their names.
        empty: Rows without a span.
    """

    column: str
    texts: Sequence[str]
    counts: Mapping[str, int]
    empty: int


def find_spans(columns: Values, candidates: Sequence[str]) -> SpanColumn | None:
    """The first of the candidates that holds lists of spans, some of them with a span; None without one.

    Columns with usual names are looked at first.
    """
    known = _NAMES.split()
    for name in sorted(candidates, key=lambda name: (place := name.strip().lower()) not in known or known.index(place)):
        found = _counted(name, columns)
        if found is not None:
            return found
    return None


def _counted(column: str, columns: Values) -> SpanColumn | None:
    counts: Counter[str] = Counter()
    empty = 0
    for value in columns[column]:
        spans = spans_in(value)
        if spans is None:
            return None
        counts.update({canonical(label) for *_, label in spans})
        empty += not spans
    if not 1 <= len(counts) <= MOST_LABELS:
        return None
    others = [name for name in columns if name != column and all(isinstance(text, str) for text in columns[name])]
    texts = [name for name in others if _fit(columns[name], columns[column])]
    return SpanColumn(column, texts, dict(sorted(counts.items())), empty)


def _fit(texts: Sequence[Any], spans: Sequence[Any]) -> bool:
    return not any(span_problem(text, value, None) for text, value in zip(texts, spans, strict=True))
