"""Strict F1 of entities: cases made by hand, and a second counting by sets; both forms on resamples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beft.errors import InputError
from beft.metrics.registry import combined, known_metric, metric, score_predictions
from beft.metrics.spans import Span
from beft.metrics.truth import Truth

NAMES = ("entity_f1", "entity_precision", "entity_recall")
BY_HAND = {
    # truth, predicted, precision, recall
    "all right": ([[(0, 4, 0)], []], [[(0, 4, 0)], []], 1, 1),
    "the end is another": ([[(0, 4, 0)]], [[(0, 5, 0)]], 0, 0),
    "the label is another": ([[(0, 4, 0)]], [[(0, 4, 1)]], 0, 0),
    "two halves are not the whole": ([[(0, 8, 0)]], [[(0, 3, 0), (4, 8, 0)]], 0, 0),
    "one of two": ([[(0, 4, 0), (5, 9, 1)]], [[(0, 4, 0)]], 1, 1 / 2),
    "one too many": ([[(0, 4, 0)]], [[(0, 4, 0), (5, 9, 1)]], 1 / 2, 1),
    "the place of another row": ([[(0, 4, 0)], []], [[], [(0, 4, 0)]], 0, 0),
    "over all rows together": (
        [[(0, 1, 0)], [(0, 1, 0), (2, 3, 0), (4, 5, 0)]],
        [[(0, 1, 0)], [(2, 3, 1)]],
        1 / 2,
        1 / 4,
    ),
    "nothing predicted": ([[(0, 4, 0)]], [[]], 0, 0),
    "nothing true": ([[]], [[(0, 4, 0)]], 0, 0),
    "nothing at all": ([[], []], [[], []], 0, 0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_cases_by_hand(case):
    truth, predicted, precision, recall = BY_HAND[case]
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    for name, expected in zip(NAMES, (f1, precision, recall), strict=True):
        assert score_predictions(name, predicted, Truth(spans=truth)) == pytest.approx(expected), name
        assert known_metric(name).value(truth, predicted) == pytest.approx(expected), name
    found = combined(NAMES).compute(predictions=predicted, references=truth)
    assert found == pytest.approx(dict(zip(NAMES, (f1, precision, recall), strict=True)))


def by_sets(truth, predicted):
    """F1, precision and recall of the spans of all rows as two sets."""
    true, found = (
        {(row, *span[:3]) for row, of_row in enumerate(rows) for span in of_row} for rows in (truth, predicted)
    )
    precision = len(true & found) / len(found) if found else 0
    recall = len(true & found) / len(true) if true else 0
    return 2 * len(true & found) / (len(true) + len(found)) if true or found else 0, precision, recall


@st.composite
def _rows(draw):
    span = st.tuples(st.integers(0, 3), st.integers(4, 6), st.integers(0, 1))
    rows = draw(st.integers(1, 8))
    row = st.lists(span, max_size=4, unique=True)
    times = st.lists(st.integers(0, 3), min_size=rows, max_size=rows)
    return *(draw(st.lists(row, min_size=rows, max_size=rows)) for _ in range(2)), draw(times)


@given(_rows())
def test_both_forms_are_a_count_by_sets_on_resamples(found):
    truth, predicted, times = found
    for name, expected in zip(NAMES, by_sets(truth, predicted), strict=True):
        scored = [[Span(*one, score=0.3) for one in of_row] for of_row in predicted]
        assert score_predictions(name, scored, Truth(spans=truth)) == pytest.approx(expected)
    at = np.repeat(np.arange(len(truth)), times)
    resampled = by_sets([truth[row] for row in at], [predicted[row] for row in at])
    for name, expected in zip(NAMES, resampled, strict=True):
        weighed = known_metric(name).weighed(truth, predicted)
        assert float(weighed(np.array(times, float))) == pytest.approx(expected)
        assert weighed(np.ones((5, len(truth)))).shape == (5,)


def test_rows_of_a_group_are_drawn_together():
    truth, predicted = [[(0, 1, 0)], [(0, 1, 0)], []], [[(0, 1, 0)], [], [(0, 1, 0)]]
    unit = np.array([0, 0, 1])
    weighed = known_metric("entity_f1").weighed(truth, predicted, unit)
    assert float(weighed(np.array([1.0, 0.0]))) == pytest.approx(2 / 3)
    assert float(weighed(np.array([0.0, 1.0]))) == 0


@pytest.mark.parametrize("spans", [[[(3, 3, 0)]], [[(-1, 2, 0)]], [[(0, 2)]], [["ab"]], ["ab"], [[(0, 2, -1)]]])
def test_what_is_no_span_is_refused(spans):
    with pytest.raises(InputError, match="row 0"):
        Truth(spans=spans)
    with pytest.raises(InputError, match="row 0"):
        metric("entity_f1").compute(predictions=spans, references=[[]])


def test_another_number_of_rows_is_refused():
    with pytest.raises(InputError, match="2 rows"):
        score_predictions("entity_f1", [[]], Truth(spans=[[], []]))
    with pytest.raises(InputError, match="compares with true spans"):
        score_predictions("entity_f1", [[]], Truth(labels=[0]))
