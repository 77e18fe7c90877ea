"""The report of a reproduction from records made by hand: means, intervals, marks, reasons, published rows."""

import csv
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from beft.files import read_json, write_json
from beft.studies.published.table import published
from beft.studies.selection_analysis.records import TermRecord
from tasks.engine.execution import run_step
from tasks.engine.store import StepRun
from tasks.reproduction.cells import CellKey, ReportPlan, gather, merge_key, merge_place, term_records
from tasks.reproduction.measured import Failed, Measured, Measurement, Scored
from tasks.reproduction.merge_tables import merge_table, merged_means
from tasks.reproduction.plan import Unavailable
from tasks.reproduction.reproduce_report import PLAN, _comparable, reproduce_report, reproduce_report_step
from tasks.reproduction.tables import cost_table, long_table, wide_table
from tasks.settings import PipelineSettings
from tests.support.measured import measured

VALUE, QUERY = [0.80, 0.84, 0.79], [0.70, 0.74, 0.73]
SCORES = {"projection_ratio": 0.6, "magnitude": 0.01}


def outline(**changes: object) -> ReportPlan:
    values: dict[str, object] = {
        "name": "table1",
        "title": "Bias terms",
        "protocol": "beft",
        "seeds": 3,
        "bases": {"small": "pypi:some-model==1"},
        "datasets": ("sst2", "rte"),
        "regimes": ("low",),
        "methods": ("value", "query", "full"),
        "measurements": {f"measure/{seed}": ("small", "sst2", "low") for seed in range(3)},
        "missing": (Unavailable("small", "rte", "low", ("value", "query", "full"), "there is no file RTE/train.tsv"),),
    }
    return ReportPlan.model_validate(values | changes)


def measurements() -> dict[str, Measurement]:
    found = {}
    for seed in range(3):
        records = (
            measured(
                "value",
                seed,
                VALUE[seed],
                dataset="sst2",
                importance=SCORES,
                selected=seed != 1,
            ),
            measured(
                "query",
                seed,
                QUERY[seed],
                dataset="sst2",
                importance={"projection_ratio": 0.2, "magnitude": 0.02},
                selected=seed == 1,
            ),
        )
        found[f"measure/{seed}"] = Measurement(records=records, unavailable={"full": "its weights are quantised"})
    return found


def test_a_measurement_is_read_as_it_was_saved(tmp_path: Path) -> None:
    one = measurements()["measure/0"]
    one.save(tmp_path)
    assert Measurement.load(tmp_path) == one
    assert "seconds" not in (tmp_path / "records.json").read_text()


def test_the_interval_is_students_over_seeds() -> None:
    cells = gather(outline(), measurements(), published("table1"))
    found = cells.at(CellKey("small", "sst2", "low", "value")).estimate("accuracy")
    low, high = stats.t.interval(0.95, 2, loc=sum(VALUE) / 3, scale=stats.sem(VALUE))
    assert (found.value, found.low, found.high) == pytest.approx((sum(VALUE) / 3, low, high))
    one = gather(outline(), {"measure/0": measurements()["measure/0"]}, published("table1"))
    assert one.at(CellKey("small", "sst2", "low", "value")).estimate("accuracy").low is None


def test_the_table_has_measured_and_published_rows_and_a_reason_where_a_cell_is_empty() -> None:
    table = wide_table(gather(outline(), measurements(), published("table1")), published("table1"))
    rows = [
        dict(zip((getattr(column, "name", column) for column in table.columns), row, strict=True)) for row in table.rows
    ]
    value, query, full = rows[:3]
    assert value["from"] == "measured" and str(value["sst2 (accuracy)"]).startswith("81.0 [")
    assert str(value["sst2 (accuracy)"]).endswith("†") and not str(query["sst2 (accuracy)"]).endswith("†")
    assert value["rte"] == "not measured (1)" and full["sst2 (accuracy)"] == "not measured (2)"
    assert value["average"] is None  # one of its datasets is missing
    assert "(1) there is no file RTE/train.tsv" in table.notes and "(2) its weights are quantised" in table.notes
    assert value["trained"] == "1 %"  # 64 of 6,400: without the head
    of_paper = [row for row in rows if row["from"] == "published"]
    assert [row["model"] for row in of_paper] == ["bert-base"] * 3
    assert {row["method"]: (row["sst2 (accuracy)"], row["rte"]) for row in of_paper} == {
        "value": ("85.8†", "59.5†"),
        "query": ("80.0", "46.9"),
        "key": ("77.2", "46.5"),
    }
    assert table.bold == {(0, 5)}


@pytest.mark.parametrize(
    ("methods", "trials", "protocol", "expected"),
    [
        (("value", "query"), 3, "beft", ""),
        (("value", "lora"), 0, "beft", "Each method has one learning rate, which was not searched."),
        (("value", "lora"), 3, "beft", "the best on dev of up to 3; its seconds are those of all"),
        (("value", "lora"), 0, "paper", ""),
    ],
)
def test_beside_weights_the_table_says_how_learning_rates_came_about(
    methods: tuple[str, ...], trials: int, protocol: str, expected: str
) -> None:
    tried = [{"learning_rate": rate, "dev_metric": 0.5} for rate in (0.1, 0.2, 0.3)[:trials]]
    records = tuple(measured(method, 0, 0.8, dataset="sst2", trials=tried) for method in methods)
    asked = outline(datasets=("sst2",), methods=methods, missing=(), protocol=protocol)
    found = gather(asked, {"measure/0": Measurement(records=records)}, published("table1"))
    note = wide_table(found, published("table1")).notes[0]
    assert expected in note and ("learning rate" in note) == bool(expected)


def test_a_run_that_failed_is_a_cell_that_says_why() -> None:
    """One seed of several is a note beside the mean; all of a compared setting are a cell of their own."""
    asked = outline(datasets=("sst2",), methods=("value",), missing=())
    lost = Failed(method="value", seed=2, learning_rate=0.1, epochs=8, reason="the loss is nan at step 3")
    found = {
        "measure/0": Measurement(
            records=(measured("value", 0, 0.8, dataset="sst2"), measured("value", 1, 0.9, dataset="sst2")),
            failed=(lost.model_copy(update={"learning_rate": 0.01}),),
        )
    }
    cells = gather(asked, found, published("table1"))
    assert cells.settings == [(None, None)]  # no method has two rates from one seed
    assert cells.at(CellKey("small", "sst2", "low", "value")).failed == (
        "value, seed 2, failed: the loss is nan at step 3",
    )
    table = wide_table(cells, published("table1"))
    assert str(table.rows[0][-1]).endswith(" (1)")
    assert "(1) value, seed 2, failed: the loss is nan at step 3" in table.notes

    both = (measured("value", 0, 0.8, dataset="sst2"),)
    found = {"measure/0": Measurement(records=both, failed=(lost.model_copy(update={"seed": 0}),))}
    cells = gather(asked, found, published("table1"))
    assert cells.settings == [(0.01, None), (0.1, None)]
    empty = cells.at(CellKey("small", "sst2", "low", "value", 0.1))
    assert empty.reason == "value, seed 0, failed: the loss is nan at step 3"
    table = wide_table(cells, published("table1"))
    assert [row[-1] for row in table.rows[:2]] == ["80.0", "not measured (1)"]
    assert "(1) value, seed 0, failed: the loss is nan at step 3" in table.notes
    lines = long_table(cells, published("table1")).rows
    assert [row[-1] for row in lines if row[0] == "missing"] == [empty.reason]


def test_a_cell_without_a_whole_seed_costs_no_other_cell_its_analysis() -> None:
    """Value failed under the one seed and query under the other."""
    records = [
        TermRecord(dataset=dataset, seed=seed, term=term, importance=SCORES, value=0.7 + seed / 10)
        for dataset, lost in (("sst2", ()), ("rte", (("value", 0), ("query", 1))))
        for seed in range(2)
        for term in ("value", "query")
        if (term, seed) not in lost
    ]
    assert {record.dataset for record in _comparable(records, exclude_inert=True)} == {"sst2"}


def test_a_measurement_of_before_has_no_failed_runs(tmp_path: Path) -> None:
    one = measurements()["measure/0"]
    one.save(tmp_path)
    stored = read_json(tmp_path / "records.json")
    del stored["failed"]
    write_json(tmp_path / "records.json", stored)
    assert Measurement.load(tmp_path) == one


def test_the_published_metric_is_shown_where_it_was_measured() -> None:
    found = {"measure/0": Measurement(records=(measured("value", 0, 0.8, dataset="mrpc"),))}
    asked = outline(datasets=("mrpc",), measurements={"measure/0": ("small", "mrpc", "low")}, missing=())
    cells = gather(asked, found, published("table1"))
    assert cells.metrics == {"mrpc": "f1"}  # the paper's table has F1 there; the headline is accuracy
    assert cells.at(CellKey("small", "mrpc", "low", "value")).estimate("f1").value == pytest.approx(0.4)


def test_every_number_is_in_the_long_table(tmp_path: Path) -> None:
    long_table(gather(outline(), measurements(), published("table1")), published("table1")).write(tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    mine = [row for row in rows if row["from"] == "measured" and row["metric"] == "accuracy"]
    assert {row["method"]: float(row["value"]) for row in mine} == pytest.approx({"value": 0.81, "query": 2.17 / 3})
    assert {row["method"]: row["selected in"] for row in mine}["query"].startswith("0.333")
    assert len([row for row in rows if row["from"] == "published"]) == 90
    assert {row["reason"] for row in rows if row["from"] == "missing"} == {
        "there is no file RTE/train.tsv",
        "its weights are quantised",
    }


def test_times_of_shared_passes_say_so() -> None:
    table = cost_table(gather(outline(name="table2"), measurements(), published("table2")), published("table2"))
    texts = [str(cell) for row in table.rows for cell in row]
    assert any(text == "2.0 s [2.0, 2.0] (shared pass)" for text in texts)
    untimed = {key: one.model_copy(update={"records": one.records[:1]}) for key, one in measurements().items()}
    record = untimed["measure/0"].records[0]
    assert record.cost is not None
    resumed = record.model_copy(update={"cost": record.cost.model_copy(update={"seconds": None})})
    alone = {"measure/0": untimed["measure/0"].model_copy(update={"records": (resumed,)})}
    assert gather(outline(), alone, published("table2")).at(CellKey("small", "sst2", "low", "value")).seconds is None
    assert "132.9 s" in texts and "58.53 ± 1.88" in texts and "Published times: NVIDIA T4." in " ".join(table.notes)


def test_records_of_terms_are_those_of_the_analysis() -> None:
    records = term_records(gather(outline(), measurements(), published("table1")))
    assert len(records) == 6
    assert {(one.term, one.seed): one.value for one in records}["query", 2] == 0.73
    assert records[0].importance == SCORES and records[0].base == "small"


def test_learning_rates_that_are_compared_are_cells_of_their_own() -> None:
    records = tuple(measured("value", seed, 0.5 + rate, learning_rate=rate) for seed in range(2) for rate in (0.1, 0.2))
    asked = outline(
        name="extension", datasets=("mine",), measurements={"measure/0": ("small", "mine", "low")}, missing=()
    )
    cells = gather(asked, {"measure/0": Measurement(records=records)}, published("extension"))
    assert cells.settings == [(0.1, None), (0.2, None)]
    assert cells.at(CellKey("small", "mine", "low", "value", 0.2)).estimate("accuracy").value == pytest.approx(0.7)


def test_what_cannot_be_measured_has_its_reason_in_every_compared_setting() -> None:
    records = tuple(measured("value", 0, 0.5 + rate, dataset="sst2", learning_rate=rate) for rate in (0.1, 0.2))
    asked = outline(name="extension", methods=("value",), measurements={"measure/0": ("small", "sst2", "low")})
    table = wide_table(
        gather(asked, {"measure/0": Measurement(records=records)}, published("extension")), published("extension")
    )
    assert [row[7] for row in table.rows[:2]] == ["not measured (1)"] * 2
    assert "(1) there is no file RTE/train.tsv" in table.notes and "(2)" not in " ".join(table.notes)


def test_a_learning_rate_that_dev_chose_in_each_seed_is_that_of_each_seed_in_the_long_table() -> None:
    records = tuple(measured("value", seed, 0.8, dataset="sst2", learning_rate=0.1 * (seed + 1)) for seed in range(2))
    cells = gather(outline(methods=("value",)), {"measure/0": Measurement(records=records)}, published("table1"))
    table = long_table(cells, published("table1"))
    [row] = [row for row in table.rows if row[0] == "measured" and row[8] == "accuracy"]
    assert (row[6], row[7]) == ("0.1; 0.2", 8)


def choices(tmp_path: Path, records: tuple[Measured, ...], **changes: object) -> list[dict[str, Any]]:
    """What the report says of the methods' choices in one measurement."""
    asked = outline(datasets=("sst2",), missing=(), measurements={"measure/0": ("small", "sst2", "low")}, **changes)
    write_json(tmp_path / "plan" / PLAN, asked.model_dump(mode="json"))
    Measurement(records=records).save(tmp_path / "measure")
    out = tmp_path / "out"
    out.mkdir()
    reproduce_report(PipelineSettings(), {"plan": tmp_path / "plan", "measure/0": tmp_path / "measure"}, out)
    found: list[dict[str, Any]] = read_json(out / "report.json")["choices"]
    return found


def test_choices_are_those_of_one_learning_rate(tmp_path: Path) -> None:
    """A larger rate gives larger scores: a comparison over both would be one of rates."""
    records = tuple(
        measured(term, 0, 0.8, dataset="sst2", learning_rate=rate, importance={"magnitude": score}, inert=False)
        for term, rate, score in (("value", 0.1, 0.3), ("query", 0.1, 0.2), ("value", 0.9, 0.8), ("query", 0.9, 0.9))
    )
    found = choices(tmp_path, records, name="extension")
    assert {one["learning_rate"]: one["first"] for one in found} == {0.1: ["value"], 0.9: ["query"]}


@pytest.mark.parametrize(("protocol", "first"), [("beft", "value"), ("paper", "key")])
def test_an_inert_term_is_first_under_the_papers_protocol_alone(tmp_path: Path, protocol: str, first: str) -> None:
    """Rounding noise moves an inert bias, in half precision more than anything else."""
    records = (
        measured("value", 0, 0.8, dataset="sst2", importance=SCORES, inert=False),
        measured("key", 0, 0.6, dataset="sst2", importance={"projection_ratio": 0.99, "magnitude": 0.03}, inert=True),
    )
    found = choices(tmp_path, records, protocol=protocol)
    assert {one["by"]: one["first"] for one in found} == {"projection_ratio": [first], "magnitude": [first]}


def test_a_setting_in_which_every_term_failed_costs_no_other_its_analysis(tmp_path: Path) -> None:
    asked = outline(
        name="extension", datasets=("sst2",), missing=(), measurements={"measure/0": ("small", "sst2", "low")}
    )
    importance = {term: dict(SCORES) for term in ("value", "query")}
    records = [
        measured(term, 0, 0.7 + rate + bonus, dataset="sst2", learning_rate=rate, importance=SCORES, inert=False)
        for term, bonus in (("value", 0.1), ("query", 0.0))
        for rate in (0.01, 0.1)
    ]
    records += [measured("all_biases", 0, 0.7, dataset="sst2", learning_rate=rate) for rate in (0.01, 0.1, 0.9)]
    one = Measurement(
        records=tuple(records),
        scored=tuple(
            Scored(seed=0, learning_rate=rate, epochs=8, importance=importance, inert=dict.fromkeys(importance, False))
            for rate in (0.01, 0.1, 0.9)
        ),
        failed=tuple(
            Failed(method=term, seed=0, learning_rate=0.9, epochs=8, reason="the loss is nan") for term in importance
        ),
    )
    write_json(tmp_path / "plan" / PLAN, asked.model_dump(mode="json"))
    one.save(tmp_path / "measure")
    out = tmp_path / "out"
    out.mkdir()
    reproduce_report(PipelineSettings(), {"plan": tmp_path / "plan", "measure/0": tmp_path / "measure"}, out)
    report = read_json(out / "report.json")
    points = report["analysis"]["gaps"]["points"]
    assert {point["cell"]["learning_rate"] for point in points} == {0.01, 0.1}
    assert all("all_biases" in point["beside"] for point in points)


def merged(accuracy: float, datasets: tuple[str, ...] = ("sst2", "rte")) -> dict[str, Any]:
    """The ``merge.json`` of one seed in which every set of biases reaches the same."""
    rows = ["none", *datasets, "mean"]
    column = {"scores": {row: {"accuracy": {"value": accuracy}} for row in rows}}
    return {
        "datasets": list(datasets),
        "rows": rows,
        "recipes": {"mean": {}},
        "matrix": dict.fromkeys(datasets, column),
        "metrics": dict.fromkeys(datasets, "accuracy"),
        "comparisons": [{"cosine": accuracy}],
    }


def test_merges_of_two_bases_and_regimes_are_rows_of_their_own() -> None:
    asked = outline(
        name="table3",
        bases={"small": "pypi:some-model==1", "large": "pypi:other==1"},
        regimes=("low", "60"),
        methods=("value",),
        measurements={
            f"measure/{base}/{regime}": (base, "sst2", regime)
            for base in ("small", "large")
            for regime in ("low", "60")
        },
        missing=(),
    )
    one = Measurement(records=(measured("value", 0, 0.8, dataset="sst2"),))
    cells = gather(asked, dict.fromkeys(asked.measurements, one), published("table3"))
    merges = {
        merge_place(merge_key(base, regime, 0)): [merged(accuracy)]
        for base, regime, accuracy in (("small", "low", 0.5), ("small", "60", 0.6), ("large", "low", 0.7))
    }
    table = merge_table(cells, merges, published("table3"))
    means = {(row[1], row[2]): row[4] for row in table.rows if row[0] == "measured" and row[3] == "mean"}
    assert means == {("small", "low"): "50.0", ("small", "60"): "60.0", ("large", "low"): "70.0"}
    assert "Cosine of the two changes of the biases, small 60: 0.60. Published: 0.18." in table.notes
    assert merged_means(cells, merges)["large/rte/low/biases mean"] == 0.7


def test_a_seed_whose_merge_lacks_a_dataset_counts_for_the_others() -> None:
    asked = outline(name="table3", datasets=("sst2", "rte", "mine"), methods=("value",), missing=())
    cells = gather(asked, {"measure/0": measurements()["measure/0"]}, published("table3"))
    whole = ("sst2", "rte", "mine")
    merges = {("small", "low"): [merged(0.5, ("sst2", "rte")), merged(0.7, whole), merged(0.8, whole)]}
    table = merge_table(cells, merges, published("table3"))
    rows = {row[2]: row[3:] for row in table.rows if row[0] == "measured"}
    assert list(rows) == ["none", "sst2", "rte", "mine", "mean"]
    assert str(rows["mean"][0]).startswith("66.7 [") and str(rows["mean"][2]).startswith("75.0 [")
    assert merged_means(cells, merges)["mine/biases mean"] == pytest.approx(0.75)


def test_the_step_writes_the_report(tmp_path: Path) -> None:
    write_json(tmp_path / "plan" / PLAN, outline().model_dump(mode="json"))
    inputs = {"plan": tmp_path / "plan"}
    for key, one in measurements().items():
        one.save(tmp_path / key)
        inputs[key] = tmp_path / key
    done = run_step(StepRun(reproduce_report_step, PipelineSettings(), inputs, tmp_path / "root"))
    names = {path.name for path in done.folder.iterdir()}
    assert names == {
        *("table.md", "table.csv", "table.tex", "report.json", "analysis"),
        *("figure.png", "figure.svg", "step.json"),
    }
    assert done.record.summary["headline"] == pytest.approx({"sst2/low/value": 0.81, "sst2/low/query": 2.17 / 3})
    report = read_json(done.folder / "report.json")
    first = {one["by"]: one["first"] for one in report["choices"]}
    assert first == {"projection_ratio": ["value"] * 3, "magnitude": ["query"] * 3}
    assert {"regret", "ranks", "agreement"} <= set(report["analysis"])
    assert (done.folder / "analysis" / "regret.md").is_file()
    assert (done.folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    again = tmp_path / "again"
    again.mkdir()
    reproduce_report(PipelineSettings(), inputs, again)
    for name in names - {"step.json", "analysis"}:
        assert (again / name).read_bytes() == (done.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "regimes", "drawn"),
    [
        ("figure1", ("low",), "figure1"),
        ("figure1", ("low", "high"), "figure4"),
        ("figure4", ("low",), "figure4"),
        ("figure4", ("low", "high"), "figure4"),
    ],
)
def test_a_figure_is_the_one_that_was_asked_for(
    tmp_path: Path, name: str, regimes: tuple[str, ...], drawn: str
) -> None:
    """Figure 1 shows one dataset and regime; Figure 4 any number of them."""
    inputs, places = {"plan": tmp_path / "plan"}, {}
    for regime in regimes:
        for key, one in measurements().items():
            records = tuple(record.model_copy(update={"regime": regime}) for record in one.records)
            inputs[f"{key}/{regime}"] = tmp_path / key / regime
            one.model_copy(update={"records": records}).save(inputs[f"{key}/{regime}"])
            places[f"{key}/{regime}"] = ("small", "sst2", regime)
    asked = outline(name=name, datasets=("sst2",), regimes=regimes, measurements=places, missing=())
    write_json(tmp_path / "plan" / PLAN, asked.model_dump(mode="json"))
    out = tmp_path / "out"
    out.mkdir()
    reproduce_report(PipelineSettings(), inputs, out)
    assert (out / "figure.png").read_bytes() == (out / "analysis" / f"{drawn}.png").read_bytes()


@pytest.mark.parametrize(("seeds", "counted"), [(1, "mean over 1 seed."), (3, "mean over 3 seeds, with")])
def test_the_number_of_seeds_is_said(seeds: int, counted: str) -> None:
    found = dict(list(measurements().items())[:seeds])
    table = wide_table(gather(outline(), found, published("table1")), published("table1"))
    assert counted in " ".join(table.notes)
