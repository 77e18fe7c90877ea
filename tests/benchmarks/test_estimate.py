"""The program that measures the told times, on a tiny base."""

from pathlib import Path

from beft.files import read_json
from benchmarks.speed import estimate
from benchmarks.speed.estimate import CASES, Case, measure, record, table
from tests.support.rows import random_rows, tiny_classifier


def test_a_case_is_measured_and_stands_in_the_table() -> None:
    case = Case("value, some rows", "random", 48, runs=2, epochs=2)
    found = measure(tiny_classifier(), case, random_rows(48), random_rows(12, seed=3), repetitions=2)
    assert 0 < found["low"] <= found["ratio"] <= found["high"]
    assert found["estimate"] > 0 and found["training"] > 0 and found["measuring"] > 0
    about = {
        **dict.fromkeys(("date", "cpu", "threads", "precision", "torch", "base", "repetitions"), "x"),
        "load": 0.5,
        "processor_time": False,
    }
    fits = int(0.75 <= found["ratio"] <= 1.25)
    text = table(about, [(case, found), (case, found | {"ratio": 1.1})])
    assert f"| random | value, some rows | 2 | {found['estimate']:.1f} | {found['training']:.1f} |" in text
    assert f"here {fits + 1} of 2 are" in text
    [row] = record(about, [(case, found)])["found"]
    assert row["case"] == case.title and row["training"] == found["training"]


def test_the_committed_table_is_that_of_the_results() -> None:
    folder = Path(estimate.__file__).parent
    results = read_json(folder / "estimate.json")
    cases = {(case.dataset, case.title): case for case in CASES}
    found = [(cases[one["dataset"], one["case"]], one) for one in results["found"]]
    assert table(results["about"], found) == (folder / "estimate.md").read_text(encoding="utf-8")
