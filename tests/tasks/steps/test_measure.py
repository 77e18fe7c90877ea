"""The step ``measure`` and its runs in MLflow, when one of the runs fails."""

import os
from pathlib import Path

import pytest

from beft.errors import BeftError, TrainingError
from beft.files import read_json
from flows.runs.reproduction_run import ReproductionRun
from tasks.engine.store import StepRecord
from tasks.engine.workspace import Workspace
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.reproduction.measured import Failed, Measurement
from tasks.reproduction.plan import make_plan
from tasks.reproduction.tracking import log_measurement, open_reproduction, tracked_in
from tasks.settings import PipelineSettings
from tasks.steps.measure import measure
from tasks.tracking.connection import connect
from tests.conftest import build_tiny
from tests.support.films import prepare_films
from tests.support.killed_training import killed_after
from tests.support.measured import measured
from tests.support.small_data import small_workspace
from tests.support.tiny_bases import save_base

LOST = 1e300
"""A learning rate that no settings allow: after its first step the loss is NaN."""


def settings_with(folder: Path, *rates: float) -> PipelineSettings:
    training = {"epochs": 1, "batch_size": 8}
    found = PipelineSettings.from_mapping(
        {
            "base": {"source": str(folder / "bert"), "threads": 1, "precision": "fp32", "device": "cpu"},
            "datasets": {"films": {"size": 40, "max_length": 16}},
            "probe": training,
            "train": training,
            "evaluate": {"resamples": 100},
        }
    )
    asked = found.measure.model_copy(
        update={"methods": ("value", "all_biases", "full"), "compared_learning_rates": rates}
    )
    return found.model_copy(update={"measure": asked})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("measure")
    save_base(root / "bert", build_tiny("bert"), pooling="mean")
    prepare_films(root, root / "prepared", size=40)
    return root


def test_a_run_that_fails_is_recorded_beside_those_that_do_not(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints"
    kept.mkdir()
    inputs = {"prepare": folder / "prepared"}
    out = tmp_path / "out"
    out.mkdir()
    measure(settings_with(folder, 1e-2, LOST), inputs, out, dataset="films", checkpoints=kept)
    found = Measurement.load(out)
    assert {record.method for record in found.records} == {"value", "all_biases", "full"}
    assert {record.learning_rate for record in found.records if record.method != "full"} == {1e-2}
    assert {(one.method, one.seed, one.learning_rate) for one in found.failed} == {
        ("value", 0, LOST),
        ("all_biases", 0, LOST),
    }
    assert all("a learning_rate below 1e+300" in one.reason for one in found.failed)
    assert found.unavailable == {}


def test_an_interrupted_training_has_no_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went before the interruption is in no clock; methods that keep no checkpoint are trained anew."""
    kept, inputs, settings = tmp_path / "checkpoints", {"prepare": folder / "prepared"}, settings_with(folder)
    for name in ("checkpoints", "killed", "continued", "alone"):
        (tmp_path / name).mkdir()
    with killed_after(3, monkeypatch):
        measure(settings, inputs, tmp_path / "killed", dataset="films", checkpoints=kept)
    measure(settings, inputs, tmp_path / "continued", dataset="films", checkpoints=kept)
    measure(settings, inputs, tmp_path / "alone", dataset="films")
    timed = {
        name: {one.method: one.cost is not None and one.cost.seconds is not None for one in found.records}
        for name, found in {name: Measurement.load(tmp_path / name) for name in ("continued", "alone")}.items()
    }
    assert timed == {
        "continued": {"value": False, "all_biases": False, "full": True},
        "alone": {"value": True, "all_biases": True, "full": True},
    }


def test_searched_rates_are_in_the_records(folder: Path, tmp_path: Path) -> None:
    settings = settings_with(folder)
    asked = settings.measure.model_copy(update={"search_rates": True})
    measure(settings.model_copy(update={"measure": asked}), {"prepare": folder / "prepared"}, tmp_path, dataset="films")
    records = {record.method: record for record in Measurement.load(tmp_path).records}
    tried = {method: [trial["learning_rate"] for trial in record.trials] for method, record in records.items()}
    of_all = [1.5e-3, 5e-3, 1.5e-2]
    assert tried == {"value": [3e-3, 1e-2, 3e-2], "all_biases": of_all, "full": [1.5e-5, 5e-5, 1.5e-4]}
    for record in records.values():
        best = max(record.trials, key=lambda trial: (trial["dev_metric"], -trial["dev_loss"]))
        assert (record.learning_rate, record.dev) == (best["learning_rate"], best["dev_metric"])


def test_where_every_run_fails_the_step_does(folder: Path, tmp_path: Path) -> None:
    settings = settings_with(folder, LOST)
    only = settings.model_copy(update={"measure": settings.measure.model_copy(update={"methods": ("value",)})})
    with pytest.raises(TrainingError, match="a learning_rate below"):
        measure(only, {"prepare": folder / "prepared"}, tmp_path, dataset="films")


@pytest.mark.usefixtures("_no_tracking_address")
def test_a_reproduction_that_ended_early_is_recorded_wherever_it_ends_the_next_time(tmp_path: Path) -> None:
    """It could not be planned at first; then it could, and its data was missing."""
    small_workspace(tmp_path)
    settings = PipelineSettings.read(tmp_path / "params.yaml")
    request = ReproductionRequest.from_mapping({"name": "table1", "datasets": ["mine"], "regimes": [60], "seeds": 1})
    for number, planned in enumerate((False, True)):
        run_of_it = ReproductionRun(request, settings, Workspace(tmp_path))
        if planned:
            run_of_it.make_plan()
        with pytest.raises(BeftError, match=f"reason {number}"), run_of_it.tracked():
            raise BeftError(f"reason {number}")
        connection = connect(tracked_in(settings), tmp_path)
        found = connection.client.search_runs([connection.experiment])
        [run] = [run for run in found if run.data.tags["error"] == f"reason {number}"]
        assert run.info.status == "FAILED"
        assert bool(run.data.params) == planned


@pytest.mark.usefixtures("_no_tracking_address")
@pytest.mark.parametrize("kind", [BeftError, ValueError])
def test_an_error_with_the_name_of_a_file_in_latin_1_is_recorded(kind: type[Exception], tmp_path: Path) -> None:
    small_workspace(tmp_path)
    settings = PipelineSettings.read(tmp_path / "params.yaml")
    run_of_it = ReproductionRun(ReproductionRequest(name="table1"), settings, Workspace(tmp_path))
    with pytest.raises(kind), run_of_it.tracked():
        raise kind(f"there is no file {os.fsdecode(b'f' + bytes([0xE4]))}.csv")
    connection = connect(tracked_in(settings), tmp_path)
    [run] = connection.client.search_runs([connection.experiment])
    [record] = (tmp_path / "runs").glob("*/run.json")
    assert run.info.status == read_json(record)["status"] == "FAILED"
    assert run.data.tags["error"] == read_json(record)["error"] == r"there is no file f\udce4.csv"


@pytest.mark.usefixtures("_no_tracking_address")
def test_it_is_a_failed_run_in_mlflow_with_its_reason(tmp_path: Path) -> None:
    small_workspace(tmp_path)
    settings = PipelineSettings.read(tmp_path / "params.yaml")
    request = ReproductionRequest.from_mapping({"name": "table1", "datasets": ["mine"], "regimes": [60], "seeds": 1})
    plan = make_plan(request, settings, tmp_path)
    parent = open_reproduction("f" * 64, request, plan, settings, root=tmp_path, facts={})
    reason = "query-0-1: the loss is nan at step 3"
    measurement = Measurement(
        records=(measured("value", 0, 0.8, trials=[{"learning_rate": 0.003}, {"learning_rate": 0.01}]),),
        failed=(Failed(method="query", seed=0, learning_rate=0.1, epochs=8, reason=reason),),
    )
    made = StepRecord(
        step="measure",
        dataset="mine",
        fingerprint="a" * 64,
        seconds=1.0,
        finished="2026-11-28T00:00:00+00:00",
        summary={},
        inputs={},
        outputs={"records.json": "b" * 64},
        compute={},
    )
    for _ in range(2):  # the second writes nothing
        log_measurement(parent, plan.measurements[0], measurement, made=made, settings=settings, root=tmp_path)
    connection = connect(tracked_in(settings), tmp_path)
    runs = connection.client.search_runs([connection.experiment])
    nested = {run.data.tags["method"]: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent}
    assert {method: run.info.status for method, run in nested.items()} == {"value": "FINISHED", "query": "FAILED"}
    assert nested["query"].data.tags["error"] == reason
    assert nested["query"].data.params["train.learning_rate"] == "0.1"
    assert nested["query"].data.params["train.learning_rates"] == ""
    assert nested["value"].data.params["train.learning_rates"] == "0.003, 0.01"
    assert len(runs) == 3
