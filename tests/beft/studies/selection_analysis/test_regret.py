"""Regret is never negative, zero for whoever chooses the best, and equal to a plain computation."""

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from beft.errors import InputError
from beft.studies.selection_analysis.records import TermRecord
from beft.studies.selection_analysis.regret import DEV, RANDOM, VALUE, Regret, regret
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records, experiments


def of_method(found: Regret, method: str, dataset: str = "sst2") -> float:
    (one,) = [one for one in found.cells if one.method == method and one.cell.dataset == dataset]
    return one.regret.value


def test_by_hand() -> None:
    """The means are 0.7, 0.5 and 0.8; value is chosen in the first seed, query in the second, key in the third."""
    records = cell_records(
        {"query": [1, 9, 1], "key": [2, 2, 9], "value": [9, 3, 3]},
        {"query": [0.6, 0.7, 0.8], "key": [0.5, 0.5, 0.5], "value": [0.7, 0.9, 0.8]},
    )
    found = regret(records)
    assert of_method(found, "projection_ratio") == pytest.approx((0 + 0.1 + 0.3) / 3)
    assert of_method(found, RANDOM) == pytest.approx(0.8 - 2.0 / 3)
    assert of_method(found, VALUE) == 0
    ours = next(one for one in found.cells if one.method == "projection_ratio")
    assert ours.best == "value" and ours.best_chosen == pytest.approx(1 / 3)
    assert ours.chosen == pytest.approx({"query": 1 / 3, "key": 1 / 3, "value": 1 / 3})
    chance = next(one for one in found.cells if one.method == RANDOM)
    assert chance.best_chosen == pytest.approx(1 / 3)
    assert DEV not in found.overall, "no dev values were given"


def test_equals_a_plain_computation() -> None:
    records = drawn_records()
    found = regret(records)
    per_method: dict[str, list[float]] = {}
    for dataset in ("cola", "rte", "sst2"):
        for regime in ("low", "high"):
            of = [record for record in records if (record.dataset, record.regime) == (dataset, regime)]
            mean = {
                term: sum(record.value or 0 for record in of if record.term == term) / 4
                for term in ("query", "key", "value")
            }
            best = max(mean.values())

            def lost(score: str, of: list[TermRecord] = of, mean: dict[str, float] = mean, best: float = best) -> float:
                total = 0.0
                for seed in range(4):
                    row = [record for record in of if record.seed == seed]
                    chosen = max(row, key=lambda r: r.dev_value or 0 if score == DEV else r.importance[score] or 0)
                    total += best - mean[chosen.term]
                return total / 4

            for method in ("fisher", "magnitude", DEV):
                per_method.setdefault(method, []).append(lost(method))
            per_method.setdefault(RANDOM, []).append(best - sum(mean.values()) / 3)
            per_method.setdefault(VALUE, []).append(best - mean["value"])
    assert set(found.overall) == set(per_method)
    for method, losses in per_method.items():
        assert found.overall[method].regret.value == pytest.approx(np.mean(losses))
        assert found.overall[method].cells == 6
        if method != RANDOM:
            less = np.mean(per_method[RANDOM]) - np.mean(losses)
            assert found.overall[method].less_than[RANDOM].value == pytest.approx(less)


def test_the_interval_of_a_choice_that_never_changes_is_the_paired_t_interval() -> None:
    query, value = np.array([0.60, 0.65, 0.63, 0.58]), np.array([0.80, 0.83, 0.86, 0.79])
    records = cell_records({"query": [2] * 4, "value": [1] * 4}, {"query": list(query), "value": list(value)})
    found = regret(records)
    expected = stats.ttest_rel(value, query).confidence_interval()
    one = next(one for one in found.cells if one.method == "projection_ratio")
    assert (one.regret.low, one.regret.high) == pytest.approx((expected.low, expected.high))
    against = found.overall["projection_ratio"].less_than[RANDOM]
    assert (against.low, against.high) == pytest.approx((-expected.high / 2, -expected.low / 2))


@given(experiments(), st.randoms())
def test_regret_is_never_negative_and_blind_to_order_and_monotone_changes(
    records: list[TermRecord], random: Random
) -> None:
    found = regret(records)
    json.dumps(found.to_json(), allow_nan=False)
    for one in found.cells:
        assert one.regret.value >= 0 and 0 <= one.best_chosen <= 1
        assert (one.regret.low or 0) >= 0
        assert (one.regret.value < 1e-9) == (one.best_chosen > 1 - 1e-9)
        assert sum(one.chosen.values()) == pytest.approx(1)
    changed = [
        record.model_copy(update={"importance": {"magnitude": float(np.log(record.importance["magnitude"] or 1)) + 9}})
        for record in records
    ]
    random.shuffle(changed)
    assert regret(changed).to_json() == found.to_json()


@given(experiments())
def test_whoever_orders_as_the_accuracies_regrets_nothing(records: list[TermRecord]) -> None:
    means = {
        (one.dataset, one.term): float(
            np.mean([r.value for r in records if (r.dataset, r.term) == (one.dataset, one.term)]).round(12)
        )
        for one in records
    }
    perfect = [one.model_copy(update={"importance": {"magnitude": means[one.dataset, one.term]}}) for one in records]
    worst = [one.model_copy(update={"importance": {"magnitude": 2 - means[one.dataset, one.term]}}) for one in records]
    best, chance = regret(perfect).overall["magnitude"], regret(perfect).overall[RANDOM]
    assert best.regret.value == 0 and best.best_chosen == 1
    assert regret(worst).overall["magnitude"].regret.value >= chance.regret.value - 1e-12


def test_an_inert_term_is_neither_chosen_nor_the_best() -> None:
    records = cell_records({"query": [1], "key": [9], "value": [2]}, {"query": [0.5], "key": [0.9], "value": [0.6]})
    marked = [record.model_copy(update={"inert": record.term == "key"}) for record in records]
    found = regret(marked)
    assert of_method(found, "projection_ratio") == 0
    assert any("inert" in note for note in found.notes)
    assert of_method(regret(marked, exclude_inert=False), VALUE) == pytest.approx(0.3), "the paper's protocol"


def test_equal_scores_choose_as_the_selection_does() -> None:
    records = cell_records({"value": [1], "query": [1]}, {"query": [0.5], "value": [0.6]})
    (one,) = [one for one in regret(records).cells if one.method == "projection_ratio"]
    assert one.chosen == {"query": 1.0}


def test_the_least_regret_is_bold_and_the_unit_is_points() -> None:
    records = cell_records({"query": [1], "value": [2]}, {"query": [0.5], "value": [0.6]})
    found = regret(records)
    table = found.table()
    bold = {str(table.rows[row][0]) for row, _ in table.bold}
    assert bold == {"projection_ratio", VALUE}
    assert "| random choice | 1 | 5.00 | 50 |" in table.to_markdown()
    assert found.cells_table().rows == (("sst2", "value", *(row[2] for row in table.rows)),)


def test_without_a_method_that_can_choose_there_is_no_regret() -> None:
    with pytest.raises(InputError, match="a method that can choose"):
        regret(cell_records({"query": [None], "value": [1]}, {"query": [0.5], "value": [0.6]}))
