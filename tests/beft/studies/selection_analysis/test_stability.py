"""Ranking stability against scipy, pair by pair."""

import itertools
import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import kendalltau

from beft.errors import InputError
from beft.studies.selection_analysis.records import TermRecord
from beft.studies.selection_analysis.stability import stability
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records, experiments


def scores_of(records: list[TermRecord], dataset: str, regime: str, method: str) -> list[list[float]]:
    """Seed by seed the scores of one cell, read straight off the records."""
    of = [record for record in records if (record.dataset, record.regime) == (dataset, regime)]
    seeds = sorted({record.seed for record in of})
    return [[float(record.importance[method] or 0) for record in of if record.seed == seed] for seed in seeds]


def test_equals_the_mean_of_scipys_taus_over_every_two_seeds() -> None:
    records = drawn_records(terms=("query", "key", "value", "output"))
    found = stability(records)
    assert len(found.cells) == 2 * 3 * 2
    for one in found.cells:
        by_seed = scores_of(records, one.cell.dataset, one.cell.regime, one.method)
        pairs = [kendalltau(a, b).statistic for a, b in itertools.combinations(by_seed, 2)]
        assert one.tau.value == pytest.approx(np.mean(pairs))
        # The jackknife by hand: the mean over the pairs of the other seeds, for each seed left out.
        without = [
            np.mean([kendalltau(a, b).statistic for a, b in itertools.combinations(by_seed[:i] + by_seed[i + 1 :], 2)])
            for i in range(4)
        ]
        error = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
        assert one.tau.low == pytest.approx(max(-1, one.tau.value - stats.t.ppf(0.975, 3) * error))
        best = [int(np.argmax(scores[:3])) for scores in by_seed]
        assert one.same_choice == pytest.approx(np.mean([a == b for a, b in itertools.combinations(best, 2)]))


def test_over_the_cells_it_is_the_mean_with_an_interval_over_datasets() -> None:
    found = stability(drawn_records())
    for method, tau in found.overall.items():
        by_dataset = [
            np.mean([one.tau.value for one in found.cells if one.method == method and one.cell.dataset == dataset])
            for dataset in ("cola", "rte", "sst2")
        ]
        expected = stats.ttest_1samp(by_dataset, 0).confidence_interval()
        assert tau.value == pytest.approx(np.mean(by_dataset))
        assert tau.low == pytest.approx(max(-1, expected.low)) and tau.high == pytest.approx(min(1, expected.high))


def test_equal_and_tied_rankings_are_defined() -> None:
    same = cell_records({"query": [1, 1, 1], "value": [2, 2, 2]}, {})
    assert (stability(same).cells[0].tau.value, stability(same).cells[0].tau.low) == (1.0, 1.0)
    tied = cell_records({"query": [1, 1, 1], "value": [1, 1, 1]}, {})
    assert stability(tied).cells[0].tau.value == 1.0, "every seed ties everything: they agree"
    half = cell_records({"query": [1, 1], "value": [1, 2]}, {})
    assert stability(half).cells[0].tau.value == 0.0, "one seed ties everything, the other nothing"
    reverse = cell_records({"query": [1, 2], "value": [2, 1]}, {})
    assert stability(reverse).cells[0].tau.value == -1.0 and stability(reverse).cells[0].same_choice == 0


def test_two_seeds_have_no_interval() -> None:
    (one,) = stability(cell_records({"query": [1, 2], "value": [2, 3]}, {})).cells
    assert (one.tau.value, one.tau.low, one.tau.high) == (1.0, None, None)


@given(experiments(), st.randoms())
def test_neither_order_nor_monotone_changes_matter_and_nothing_is_nan(
    records: list[TermRecord], random: Random
) -> None:
    if len({record.seed for record in records}) == 1:
        with pytest.raises(InputError, match="two seeds"):
            stability(records)
        return
    found = stability(records)
    json.dumps(found.to_json(), allow_nan=False)
    for one in found.cells:
        assert -1 <= one.tau.value <= 1
        if one.tau.low is not None and one.tau.high is not None:
            assert one.tau.low <= one.tau.value <= one.tau.high
    changed = [
        record.model_copy(update={"importance": {"magnitude": (record.importance["magnitude"] or 0) ** 3 + 1}})
        for record in records
    ]
    random.shuffle(changed)
    assert stability(changed).to_json() == found.to_json()


def test_inert_terms_are_not_ranked_and_it_is_said() -> None:
    records = cell_records({"query": [1, 2], "key": [0, 9], "value": [2, 3]}, {})
    records = [record.model_copy(update={"inert": record.term == "key"}) for record in records]
    found = stability(records)
    assert found.cells[0].terms == ("query", "value") and found.cells[0].tau.value == 1
    assert any("inert" in note and "key" in note for note in found.notes)
    assert stability(records, exclude_inert=False).cells[0].terms == ("query", "key", "value")


def test_the_table_has_a_row_a_cell_and_one_over_all() -> None:
    table = stability(drawn_records()).table()
    assert len(table.rows) == 2 * 3 * 2 + 2
    assert table.rows[-1][1] == "mean of 6"
