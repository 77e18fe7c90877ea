"""A reproduction on two small datasets and a tiny base, on a real temporary Prefect server."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from beft.errors import BeftError, InputError
from beft.files import read_json, write_text
from flows.cli import status_of
from flows.runs.steps import run_through_prefect
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.settings import PipelineSettings
from tasks.steps.measure import measure_step
from tests.conftest import build_tiny
from tests.support.small_data import small_workspace
from tests.support.tiny_bases import save_base
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parent.parent.parent
COMMAND = [
    "reproduce",
    "table3",
    "--datasets",
    "mine,yours,gone",
    "--regime",
    "60",
    "--methods",
    "value,full",
    "--seeds",
    "1",
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two small datasets, one whose file is missing, and a tiny base; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    small_workspace(
        tmp_path,
        {
            "datasets": {name: {"size": 60, "max_length": 16} for name in ("mine", "yours", "gone")},
            "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
            "train": {"loss": "cross_entropy", "epochs": 2, "learning_rate": 0.01},
            "probe": {"epochs": 2, "learning_rate": 0.01},
            "evaluate": {"resamples": 100},
        },
    )
    own = tmp_path / "data" / "datasets"
    write_text(own / "yours.yaml", (own / "mine.yaml").read_text())
    write_text(own / "gone.yaml", (own / "mine.yaml").read_text().replace("mine.csv", "gone.csv"))
    return tmp_path


def test_a_digit_that_is_no_number_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["reproduce", "table3", "--regime", "²"]) == 2
    assert "unknown value '²'. Known: all, high" in capsys.readouterr().err


def runs(root: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("beft-reproduce")
    return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def test_its_parameters_are_a_form() -> None:
    from flows.reproduce import reproduce

    text = str(reproduce.parameters.model_dump())
    for name in ReproductionRequest.model_fields:
        assert name in text
    assert "seeds 0, 1, 2" in text


def test_wrong_names_are_said_before_a_server_is_started(root: Path) -> None:
    from flows.reproduce import run_reproduce

    request = ReproductionRequest(name="table1", datasets=("mien",))
    with pytest.raises(InputError, match="Did you mean 'mine'"):
        run_reproduce(request, PipelineSettings.read(root / "params.yaml"))
    assert not (root / "runs").exists()


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_one_of_which_nothing_can_be_measured_is_in_its_folder_and_in_mlflow_with_the_reason(root: Path) -> None:
    from flows.reproduce import reproduce

    settings = PipelineSettings.read(root / "params.yaml")
    for plan_only in (True, False):
        request = ReproductionRequest(name="table1", datasets=("gone",), regimes=(60,), methods=("value",), seeds=1)
        with pytest.raises(BeftError, match="nothing of this can be measured"):
            reproduce(request, settings, plan_only)
        assert len(list((root / "runs").glob("*/run.json"))) == (0 if plan_only else 1)
    [path] = (root / "runs").glob("*/run.json")
    record = read_json(path)
    assert record["status"] == "FAILED" and "gone.csv" in record["error"]
    [run] = runs(root)
    assert run.info.run_id == record["mlflow_run"]
    assert run.info.status == "FAILED" and "nothing of this can be measured" in run.data.tags["error"]


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_measurement_that_failed_is_told_after_the_report_of_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = run_through_prefect

    def lost(step: Any, *arguments: Any) -> Any:
        if step is measure_step and arguments[-1] == "yours":
            raise BeftError("the process that measured it was killed")
        return measured(step, *arguments)

    monkeypatch.setattr("flows.runs.reproduction_run.run_through_prefect", lost)
    assert status_of([*COMMAND[:1], "table1", *COMMAND[2:]]) == 1
    told = capsys.readouterr()
    assert "not everything was measured: 2 failed, for the reasons above" in told.err
    assert "yours 60 on base" in told.out and "the process that measured it was killed" in told.out
    table = (root / "reports" / "table1" / "table.md").read_text()
    assert "mine" in table and "the process that measured it was killed" in table


@pytest.mark.server
@pytest.mark.slow
def test_it_is_killed_goes_on_and_ends_with_a_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.cli import status_of

    first = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *COMMAND],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        preexec_fn=partial(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))}),  # one measurement at a time
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    steps = root / "runs" / "steps"
    wait_until(lambda: list(steps.glob("measure-mine-*/step.json")), 240, process=first)
    started = psutil.Process(first.pid).children(recursive=True)
    assert any("flows.servers.temporary_server" in one.cmdline() for one in started)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not psutil.wait_procs(started, 20)[1]  # neither Prefect's server nor a step is left behind
    assert not list(steps.glob("measure-yours-*/step.json"))

    assert status_of(COMMAND) == 0
    out = capsys.readouterr().out
    assert "1 of 4 measurements were finished already and reused." in out
    assert "gone 60 on base" in out and "gone.csv" in out

    # The folder of the report, with what was measured beside what was published.
    report = root / "reports" / "table3"
    names = {path.name for path in report.iterdir()}
    assert {"table.md", "table.csv", "table.tex", "figure.png", "figure.svg", "report.json"} <= names
    table = (report / "table.md").read_text()
    assert "published | bert-base | mean" in table and "not measured (1)" in table
    found = read_json(report / "report.json")
    # Both datasets are the same rows, so the mean of their two adapters is either one.
    [merged] = found["merges"]
    scores = merged["matrix"]["mine"]["scores"]
    assert scores["mean"]["accuracy"]["value"] == scores["yours"]["accuracy"]["value"]
    assert merged["comparisons"][0]["cosine"] == pytest.approx(1)

    # One parent run, continued after the kill, and one nested run for each dataset and seed.
    everything = runs(root)
    [parent] = [run for run in everything if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in everything if "mlflow.parentRunId" in run.data.tags]
    assert parent.info.status == "FINISHED" and parent.data.params["name"] == "table3"
    assert "mine/60/value" in parent.data.metrics and "mine/biases mean" in parent.data.metrics
    tags = {(run.data.tags["dataset"], run.data.tags["seed"], run.data.tags["method"]) for run in nested}
    assert tags == {(dataset, "0", method) for dataset in ("mine", "yours") for method in ("value", "full")}
    assert {run.data.params["train.epochs"] for run in nested} == {"2"}
    every = {"test/score", "test/accuracy", "dev/score", "dev/accuracy", "usage/trainable_parameters"}
    assert all(every <= set(run.data.metrics) for run in nested)
    assert len({frozenset(run.data.params) for run in nested}) == 1

    # Again, in MLflow's words: nothing more is written.
    from flows.reproduce import run_reproduce

    request = ReproductionRequest(
        name="table3", datasets=("mine", "yours", "gone"), regimes=(60,), seeds=1, methods=("value", "full")
    )
    again = run_reproduce(request, PipelineSettings.read(root / "params.yaml"))
    assert all(step["reused"] for step in again["steps"].values())
    assert again["mlflow_run"] == parent.info.run_id and len(runs(root)) == len(everything)

    # A plan trains nothing.
    capsys.readouterr()
    steps = sorted(path.name for path in (root / "runs" / "steps").iterdir())
    assert status_of([*COMMAND[:-1], "2", "--plan"]) == 0
    assert "mine" in capsys.readouterr().out
    assert not [path for path in (root / "runs" / "steps").glob("measure-*") if path.name not in steps]
