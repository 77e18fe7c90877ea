"""Carried selections, against a plain computation and by hand."""

import json

import numpy as np
import pytest

from beft.errors import InputError
from beft.studies.selection_analysis.regret import regret
from beft.studies.selection_analysis.transfer import transfer
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records


def test_by_hand() -> None:
    """On a, value is best and chosen; on b, query is best, and value is chosen in one of two seeds."""
    records = [
        *cell_records({"query": [1, 1], "value": [2, 2]}, {"query": [0.5, 0.5], "value": [0.8, 0.8]}, dataset="a"),
        *cell_records({"query": [1, 2], "value": [2, 1]}, {"query": [0.7, 0.7], "value": [0.6, 0.6]}, dataset="b"),
    ]
    found = transfer(records)
    assert found.places == ("a", "b")
    ours = found.methods["projection_ratio"]
    values = [[None if cell is None else cell.value for cell in row] for row in ours.matrix]
    assert values == [pytest.approx([0.0, 0.1]), pytest.approx([0.15, 0.05])]
    assert ours.own is not None and ours.transferred is not None and ours.cost is not None
    assert ours.own.value == pytest.approx(0.025)
    assert ours.transferred.value == pytest.approx(0.125)
    assert ours.cost.value == pytest.approx(0.1)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.matrix_table("projection_ratio").rows[0][0] == "a"


def test_equals_a_plain_computation_and_the_diagonal_is_the_regret() -> None:
    records = drawn_records(("cola", "mrpc", "rte", "sst2"))
    found = transfer(records)
    own = regret(records)
    for method, transferred in found.methods.items():
        for source, row in zip(found.places, transferred.matrix, strict=True):
            for target, cell in zip(found.places, row, strict=True):
                losses = []
                for regime in ("low", "high"):
                    there = [one for one in records if (one.dataset, one.regime) == (target, regime)]
                    mean = {
                        term: np.mean([one.value for one in there if one.term == term])
                        for term in ("query", "key", "value")
                    }
                    for seed in range(4):
                        here = [one for one in records if (one.dataset, one.regime, one.seed) == (source, regime, seed)]
                        chosen = max(here, key=lambda one: one.importance[method] or 0)
                        losses.append(max(mean.values()) - mean[chosen.term])
                assert cell is not None and cell.value == pytest.approx(np.mean(losses))
        assert transferred.own is not None and transferred.transferred is not None and transferred.cost is not None
        assert transferred.own.value == pytest.approx(own.overall[method].regret.value)
        off = [cell.value for i, row in enumerate(transferred.matrix) for j, cell in enumerate(row) if cell and i != j]
        assert transferred.transferred.value == pytest.approx(np.mean(off))
        assert transferred.cost.low is not None and transferred.cost.low <= transferred.cost.value


def test_the_best_ranked_term_that_can_be_chosen_on_the_target_is_taken() -> None:
    rotary = cell_records(
        {"query": [1], "key": [3], "value": [2]}, {"query": [0.5], "key": [0.9], "value": [0.6]}, base="rotary"
    )
    plain = cell_records(
        {"query": [2], "key": [9], "value": [1]}, {"query": [0.5], "key": [0.1], "value": [0.7]}, base="plain"
    )
    plain = [record.model_copy(update={"inert": record.term == "key"}) for record in plain]
    found = transfer([*rotary, *plain])
    assert found.places == ("plain", "rotary")
    (own_plain, to_rotary), (to_plain, own_rotary) = found.methods["projection_ratio"].matrix
    assert own_plain is not None and own_plain.value == pytest.approx(0.2)
    assert to_plain is not None and to_plain.value == 0, "key leads on the rotary base, but is inert on the plain one"
    assert to_rotary is not None and to_rotary.value == pytest.approx(0.4), "the plain base never ranks its key"
    assert own_rotary is not None and own_rotary.value == 0


def test_places_without_a_common_term_have_no_entry() -> None:
    records = [
        *cell_records({"query": [1]}, {"query": [0.5]}, dataset="a"),
        *cell_records({"value": [1]}, {"value": [0.5]}, dataset="b"),
    ]
    found = transfer(records)
    ours = found.methods["projection_ratio"]
    assert [[cell is None for cell in row] for row in ours.matrix] == [[False, True], [True, False]]
    assert (ours.own, ours.transferred, ours.cost) == (None, None, None), "nothing was transferred, not even for free"
    assert found.table().rows == (("projection_ratio", None, None, None),)


def test_the_cost_is_that_of_the_cells_which_both_places_have() -> None:
    """Only regime low is on both; the regret of b's own probe in regime high is no cost of a transfer."""
    good, bad = {"query": [1], "value": [2]}, {"query": [2], "value": [1]}
    values = {"query": [0.5], "value": [0.8]}
    records = [
        *cell_records(good, values, dataset="a"),
        *cell_records(good, values, dataset="b"),
        *cell_records(bad, values, dataset="b", regime="high"),
    ]
    ours = transfer(records).methods["projection_ratio"]
    assert ours.own is not None and ours.transferred is not None and ours.cost is not None
    assert (ours.own.value, ours.transferred.value, ours.cost.value) == (0.0, 0.0, 0.0)
    own = ours.matrix[1][1]
    assert own is not None and own.value == pytest.approx(0.15)


def test_there_is_no_interval_where_one_place_holds_all_that_can_be_transferred() -> None:
    """Nothing can be transferred between a and c, so without b there is no mean."""
    values = {"query": [0.5], "value": [0.8]}
    records = [
        *cell_records({"query": [1], "value": [2]}, values, dataset="a"),
        *cell_records({"query": [1], "value": [2]}, values, dataset="b"),
        *cell_records({"query": [2], "value": [1]}, values, dataset="b", regime="high"),
        *cell_records({"query": [1], "value": [2]}, values, dataset="c", regime="high"),
    ]
    ours = transfer(records).methods["projection_ratio"]
    assert ours.transferred is not None and ours.transferred.low is None
    # a to b and b to a lose nothing; b to c loses 0.3, c to b nothing.
    assert ours.transferred.value == pytest.approx(0.3 / 4)
    assert ours.own is not None and ours.own.value == pytest.approx(0.3 / 4)


def test_one_place_has_nowhere_to_carry_to() -> None:
    with pytest.raises(InputError, match="two places"):
        transfer(drawn_records(("sst2",)))
    with pytest.raises(InputError, match="Did you mean 'dataset'"):
        transfer(drawn_records(), across=("datset",))
