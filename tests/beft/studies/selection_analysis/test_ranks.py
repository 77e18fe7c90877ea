"""Ranks against scipy, and the metric beside them."""

import json

import numpy as np
import pytest
from scipy.stats import rankdata

from beft.studies.selection_analysis.ranks import ranks
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records


def test_equal_scipys_ranks_seed_by_seed() -> None:
    records = drawn_records(terms=("query", "key", "value", "output", "intermediate"))
    found = ranks(records)
    assert len(found.terms) == 2 * 6 * 5
    for one in found.terms:
        of = [r for r in records if (r.dataset, r.regime) == (one.cell.dataset, one.cell.regime)]
        for seed in range(4):
            row = [record for record in of if record.seed == seed]
            expected = rankdata([-(record.importance[one.method] or 0) for record in row])
            assert one.ranks[seed] == expected[[record.term for record in row].index(one.term)]
        values = [record.value for record in of if record.term == one.term]
        assert one.value is not None and one.value.value == pytest.approx(np.mean(values)) and one.terms == 5
    json.dumps(found.to_json(), allow_nan=False)


def test_scored_terms_that_were_not_trained_are_ranked_too() -> None:
    records = cell_records(
        {"query": [2, 3], "value": [3, 2], "output": [4, 4]}, {"query": [0.5, 0.6], "value": [0.7, 0.8]}
    )
    by_term = {one.term: one for one in ranks(records).terms}
    assert (by_term["output"].rank, by_term["output"].value) == (1.0, None)
    assert (by_term["query"].rank, by_term["value"].rank) == (2.5, 2.5)
    assert (by_term["query"].chosen, by_term["value"].chosen, by_term["output"].chosen) == (0.5, 0.5, 0.0)


def test_an_inert_term_has_a_metric_but_no_rank() -> None:
    records = cell_records({"query": [1], "key": [9], "value": [2]}, {"query": [0.5], "key": [0.4], "value": [0.7]})
    marked = [record.model_copy(update={"inert": record.term == "key"}) for record in records]
    by_term = {one.term: one for one in ranks(marked).terms}
    assert (by_term["key"].rank, by_term["key"].inert, by_term["key"].terms) == (None, True, 2)
    assert by_term["key"].value is not None and by_term["value"].rank == 1.0
    assert "inert" in ranks(marked).table().to_markdown()
    undirected = [
        one.model_copy(update={"importance": {"projection_ratio": None}}) if one.inert else one for one in marked
    ]
    assert {one.term: one.importance for one in ranks(undirected).terms} == {"query": 1, "value": 2, "key": None}
    paper = {one.term: one for one in ranks(marked, exclude_inert=False).terms}
    assert (paper["key"].rank, paper["key"].chosen) == (1.0, 1.0)


def test_a_point_is_the_metric_and_the_rank_of_one_seed() -> None:
    """Whatever the order of the records, and although another term lacks one seed and this one's value another."""
    scores, values = {"query": [1, 4, 1], "value": [2, 3, 2]}, {"query": [0.5, 0.6, 0.7], "value": [0.7, 0.8, None]}
    records = [record for record in cell_records(scores, values) if (record.term, record.seed) != ("query", 0)]
    by_term = {one.term: one for one in ranks(reversed(records)).terms}
    assert by_term["query"].points == ((0.6, 1.0), (0.7, 2.0))
    assert by_term["value"].points == ((0.8, 2.0),) and by_term["value"].values == (0.7, 0.8)
