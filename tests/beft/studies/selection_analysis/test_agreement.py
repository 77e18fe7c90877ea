"""Agreement of rankings with measured accuracies, against scipy and by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from scipy import stats
from scipy.stats import kendalltau

from beft.errors import InputError
from beft.studies.selection_analysis.agreement import agreement
from beft.studies.selection_analysis.records import TermRecord
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records, experiments


def test_equals_scipys_tau_between_each_seeds_scores_and_the_mean_accuracies() -> None:
    records = drawn_records()
    found = agreement(records)
    for one in found.cells:
        of = [record for record in records if (record.dataset, record.regime) == (one.cell.dataset, one.cell.regime)]
        seeds = range(4)
        values = np.array([[record.value for record in of if record.seed == seed] for seed in seeds], dtype=float)
        scores = [[record.importance[one.method] for record in of if record.seed == seed] for seed in seeds]
        taus = [kendalltau(row, values.mean(axis=0)).statistic for row in scores]
        assert one.tau.value == pytest.approx(np.mean(taus))
        without = []
        for left in seeds:
            means = np.delete(values, left, axis=0).mean(axis=0)
            without.append(np.mean([kendalltau(scores[seed], means).statistic for seed in seeds if seed != left]))
        error = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
        assert one.tau.high == pytest.approx(min(1, one.tau.value + stats.t.ppf(0.975, 3) * error))
    for method in ("fisher", "magnitude"):
        expected = np.mean([one.tau.value for one in found.cells if one.method == method])
        assert found.overall[method].value == pytest.approx(expected)


def test_by_hand() -> None:
    values = {"query": [0.7, 0.7], "key": [0.5, 0.5], "value": [0.8, 0.9]}
    right = cell_records({"query": [2, 2], "key": [1, 0], "value": [3, 9]}, values)
    assert agreement(right).cells[0].tau.value == 1.0
    wrong = cell_records({"query": [2, 2], "key": [3, 9], "value": [1, 0]}, values)
    assert agreement(wrong).cells[0].tau.value == -1.0
    # One of three pairs the wrong way round: (2 - 1) / 3.
    one_pair = cell_records({"query": [3, 3], "key": [1, 1], "value": [2, 2]}, values)
    assert agreement(one_pair).cells[0].tau.value == pytest.approx(1 / 3)


@given(experiments())
def test_a_method_that_orders_as_the_accuracies_agrees_wholly(records: list[TermRecord]) -> None:
    json.dumps(agreement(records).to_json(), allow_nan=False)
    means = {
        (one.dataset, one.term): np.mean([r.value for r in records if (r.dataset, r.term) == (one.dataset, one.term)])
        for one in records
    }
    perfect = [
        one.model_copy(update={"importance": {"magnitude": float(np.exp(means[one.dataset, one.term].round(12)))}})
        for one in records
    ]
    for cell in agreement(perfect).cells:
        assert cell.tau.value == 1.0


def test_methods_that_cannot_choose_leave_a_gap() -> None:
    values = {"query": [0.7], "value": [0.8]}
    records = [
        *cell_records({"query": [1], "value": [2]}, values, method="fisher"),
        *cell_records({"query": [None], "value": [2]}, values, dataset="rte"),
        *cell_records({"query": [1], "value": [2]}, values, dataset="cola"),
    ]
    found = agreement(records)
    assert {(one.cell.dataset, one.method) for one in found.cells} == {
        ("sst2", "fisher"),
        ("cola", "projection_ratio"),
    }
    assert any("projection_ratio cannot choose in 1 of 3 cells: rte" in note for note in found.notes)
    assert found.table().rows[0][2:] == (None, found.cells[0].tau)


def test_one_term_has_no_rank() -> None:
    with pytest.raises(InputError, match="two terms"):
        agreement(cell_records({"value": [1]}, {"value": [0.5]}))
