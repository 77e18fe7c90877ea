"""Records say what is wrong with them, and cells hold exactly the terms and seeds that can be compared."""

import json
from typing import Any

import pytest

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Cell, arrange, varying
from beft.studies.selection_analysis.records import TermRecord
from tests.beft.studies.selection_analysis.experiments import cell_records


def test_a_record_reads_back() -> None:
    record = TermRecord(dataset="sst2", term="value", importance={"fisher": 1e-6, "projection_ratio": None}, value=0.5)
    assert TermRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"valeu": 1}, "valeu"),
        ({"value": float("nan")}, "value: .*finite"),
        ({"importance": {"fisher": float("inf")}}, r"importance\.fisher"),
        ({"term": ""}, "term"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_a_wrong_record_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TermRecord.from_json({"dataset": "sst2", "term": "value", **changes})


def test_no_records_and_two_of_the_same_are_errors() -> None:
    with pytest.raises(InputError, match="no records"):
        arrange([])
    record = TermRecord(dataset="sst2", term="value", importance={"fisher": 1.0}, value=0.5)
    with pytest.raises(InputError, match="two records are of the term 'value' and seed 0 of sst2 low"):
        arrange([record, record.model_copy(update={"value": 0.6})])


def test_seeds_without_every_term_are_left_out() -> None:
    records = cell_records(
        {"query": [1, 1, 1], "value": [2, 2, 2]}, {"query": [0.1, None, 0.3], "value": [0.4, 0.5, 0.6]}
    )
    (table,) = arrange(records)
    assert (table.seeds, table.left_out, table.values.tolist()) == ((0, 2), (1,), [[0.1, 0.4], [0.3, 0.6]])


def test_inert_terms_are_left_out_but_for_the_papers_protocol() -> None:
    records = cell_records({"query": [1], "key": [3], "value": [2]}, {"query": [0.1], "key": [0.9], "value": [0.4]})
    records = [record.model_copy(update={"inert": record.term == "key"}) for record in records]
    (table,) = arrange(records)
    assert (table.terms, table.inert) == (("query", "value"), ("key",))
    (table,) = arrange(records, exclude_inert=False)
    assert table.terms == ("query", "key", "value")


def test_methods_that_cannot_choose_are_told() -> None:
    none = cell_records({"query": [None], "value": [2]}, {"query": [0.1], "value": [0.4]})
    zero = cell_records({"query": [0, 1], "value": [0, 2]}, {"query": [0.1] * 2, "value": [0.4] * 2}, regime="high")
    high, low = arrange([*none, *zero])[::-1]
    assert (low.cell.regime, low.importance, low.unable) == ("low", {}, {"projection_ratio": "no score of query"})
    assert (high.importance, high.unable) == ({}, {"projection_ratio": "every candidate scores 0"})


def test_cells_are_in_order() -> None:
    records = []
    for regime in ("all", "500", "low", "50"):
        for rate in (1e-3, 1e-4):
            records += cell_records({"value": [1]}, {"value": [0.5]}, regime=regime, learning_rate=rate)
    cells = [table.cell for table in arrange(records)]
    assert [cell.regime for cell in cells[::2]] == ["low", "all", "50", "500"]
    assert [cell.learning_rate for cell in cells[:2]] == [1e-4, 1e-3]
    assert varying(cells) == ("regime", "learning_rate")
    assert cells[0].text(("regime", "learning_rate")) == "low \N{MIDDLE DOT} lr 0.0001"
    assert varying(cells[:1]) == ("dataset",)


def test_a_cell_with_nothing_to_compare_is_an_error() -> None:
    inert = [TermRecord(dataset="sst2", term="key", importance={"fisher": 1.0}, value=0.5, inert=True)]
    with pytest.raises(InputError, match=r"no bias term of sst2 . low can be compared \(key: inert\)"):
        arrange(inert)
    with pytest.raises(InputError, match="no seed of sst2"):
        arrange(
            [
                TermRecord(dataset="sst2", seed=0, term="query", importance={"fisher": 1.0}, value=0.5),
                TermRecord(dataset="sst2", seed=1, term="value", importance={"fisher": 1.0}, value=0.5),
            ]
        )
    with pytest.raises(InputError, match="several metrics: accuracy, f1"):
        arrange(
            [
                TermRecord(dataset="sst2", term="query", importance={"fisher": 1.0}, value=0.5),
                TermRecord(dataset="sst2", term="value", importance={"fisher": 1.0}, value=0.5, metric="f1"),
            ]
        )


def test_the_cell_in_words() -> None:
    assert Cell("bert", "rte", "low", 1e-3, 1).text() == "bert · rte · low · lr 0.001 · 1 epoch"
