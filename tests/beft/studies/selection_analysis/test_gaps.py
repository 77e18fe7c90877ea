"""Gaps in importance against gaps in accuracy, against scipy and by hand."""

import json

import numpy as np
import pytest
from scipy import stats
from scipy.stats import kendalltau

from beft.errors import InputError
from beft.studies.selection_analysis.gaps import gaps
from beft.studies.selection_analysis.records import TermRecord
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records

RATES = (1e-4, 1e-3, 4e-3)


def swept() -> list[TermRecord]:
    """Three learning rates of two datasets, drawn at random."""
    return [
        record
        for at, rate in enumerate(RATES)
        for record in drawn_records(("cb", "wic"), ("low",), seed=at, learning_rate=rate)
    ]


def test_equals_scipys_tau_over_the_points() -> None:
    records = swept()
    found = gaps(records)
    assert (found.along, len(found.trends), len(found.points)) == (("learning_rate", "epochs"), 2 * 2, 2 * 3 * 2)
    for trend in found.trends:
        importance, values, levels, level_values = [], [], [], []
        for rate in RATES:
            of = [one for one in records if (one.dataset, one.learning_rate) == (trend.cell.dataset, rate)]
            by_term = {term: [one for one in of if one.term == term] for term in ("query", "value")}
            score = {term: np.mean([one.importance[trend.method] for one in rs]) for term, rs in by_term.items()}
            value = {term: np.mean([one.value for one in rs]) for term, rs in by_term.items()}
            importance.append(score["value"] - score["query"])
            values.append(value["value"] - value["query"])
            levels.append(score["value"])
            level_values.append(value["value"])
        assert trend.points == 3 and trend.cell.learning_rate is None
        assert trend.gap.value == pytest.approx(kendalltau(importance, values).statistic)
        assert trend.level.value == pytest.approx(kendalltau(levels, level_values).statistic)


def test_the_gap_of_a_point_is_paired_over_seeds() -> None:
    records = swept()
    point = gaps(records).points[0]
    of = [one for one in records if one.dataset == point.cell.dataset and one.learning_rate == point.cell.learning_rate]
    value, query = ([one.value for one in of if one.term == term] for term in ("value", "query"))
    expected = stats.ttest_rel(value, query).confidence_interval()
    assert (point.value_gap.low, point.value_gap.high) == pytest.approx((expected.low, expected.high))
    assert point.value_gap.value == pytest.approx(point.value["value"].value - point.value["query"].value)


def test_by_hand() -> None:
    """The higher the rate, the larger both gaps: tau 1; the importance of value rises too, its accuracy falls: -1."""
    records = []
    for rate, gap in zip(RATES, (0.1, 0.2, 0.4), strict=True):
        scores = {"query": [0.1], "value": [0.1 + gap]}
        records += cell_records(
            scores, {"query": [0.8 - 2 * gap], "value": [0.8 - gap]}, dataset="cb", learning_rate=rate
        )
        records.append(TermRecord(dataset="cb", term="all_biases", value=0.9, learning_rate=rate))
    found = gaps(records)
    (trend,) = found.trends
    assert (trend.gap.value, trend.level.value, trend.gap.low) == (1.0, -1.0, None)
    assert [point.beside["all_biases"].value for point in found.points] == [0.9] * 3
    assert [point.importance_gap.value for point in found.points] == pytest.approx([0.1, 0.2, 0.4])
    json.dumps(found.to_json(), allow_nan=False)
    table = found.points_table("projection_ratio")
    assert len(table.rows) == 3 and "all_biases" in table.to_markdown()
    with pytest.raises(InputError, match="Did you mean 'projection_ratio'"):
        found.points_table("projection")


def test_scores_in_a_small_unit_give_the_same_tau() -> None:
    """Fisher information of a large model is far below one."""
    records = swept()
    small = [
        one.model_copy(
            update={"importance": {method: 1e-14 * (score or 0) for method, score in one.importance.items()}}
        )
        for one in records
    ]
    assert [(one.gap, one.level) for one in gaps(small).trends] == [
        (one.gap, one.level) for one in gaps(records).trends
    ]


def test_along_regimes_other_fields_make_trends_of_their_own() -> None:
    found = gaps(drawn_records(regimes=("low", "medium", "all")), along=("regime",))
    assert {(one.cell.dataset, one.cell.regime, one.points) for one in found.trends} == {
        (dataset, "", 3) for dataset in ("cola", "rte", "sst2")
    }
    assert set(found.overall) == {"fisher", "magnitude"}
    over_all = gaps(drawn_records(), along=("dataset", "regime"))
    assert [one.points for one in over_all.trends] == [6, 6]


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="Did you mean 'learning_rate'"):
        gaps(swept(), along=("learning_rat",))
    with pytest.raises(InputError, match="no cell has both terms, value and output"):
        gaps(swept(), second="output")
    with pytest.raises(InputError, match="no two cells differ in learning rate and epochs alone"):
        gaps(drawn_records())
