"""Steps side by side on a Dask cluster of two processes: the same bytes as one after the other."""

import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Barrier, get_ident
from typing import Any

import pytest

from beft.errors import BeftError, InputError
from beft.files import read_json, sha256_tree, write_text
from flows.runs.chains import DASK, run_chains, width
from flows.runs.steps import run_through_prefect
from flows.runs.task_runner import CONFIGURED, task_runner
from flows.runs.tracked_run import Done
from tasks.engine.supervisor import STOPPING
from tasks.pipeline import find_step
from tasks.settings import PipelineSettings
from tasks.steps.train import train_step
from tests.conftest import build_tiny
from tests.support.finished_run import FinishedRun
from tests.support.small_data import small_workspace
from tests.support.small_steps import look_around_step
from tests.support.tiny_bases import save_base


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_trained_side_by_side_is_as_trained_alone(
    finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow

    monkeypatch.setenv(DASK, "2")
    settings, datasets = finished_run.settings, list(finished_run.settings.datasets)
    assert len(datasets) == 2

    def train(dataset: str) -> Done:
        inputs = {name: finished_run.inputs[f"{name}/{dataset}"] for name in train_step.reads}
        return run_through_prefect(train_step, settings, inputs, tmp_path, dataset)

    @flow(task_runner=CONFIGURED)
    def both() -> dict[str, Done]:
        from prefect.context import FlowRunContext

        context = FlowRunContext.get()
        assert context is not None and type(context.task_runner).__name__ == "DaskTaskRunner"
        done, failures = run_chains(
            {dataset: partial(train, dataset) for dataset in datasets}, width(settings.base), SimpleQueue()
        )
        assert not failures
        return done

    for dataset, done in both().items():
        assert not done.reused and done.record.summary["steps_here"] > 0
        alone = finished_run.inputs[f"train/{dataset}"]
        assert sha256_tree(done.folder / "adapter") == sha256_tree(alone / "adapter")


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_worker_in_another_folder_works_in_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers are started elsewhere, without the variables and the relative paths of the process with the flow."""
    from prefect import flow

    root, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.mkdir()
    save_base(root / "base", build_tiny("bert"), pooling="mean")
    compute = {"source": "./base", "device": "cpu", "precision": "fp32", "threads": 1}
    small_workspace(root, {"base": compute, "probe": {"epochs": 1}})
    write_text(root / "data" / "expectations" / "prepared.yaml", "[]")  # its own, not the project's
    monkeypatch.setenv(DASK, "1")
    monkeypatch.delenv("BEFT_DATA_DIR", raising=False)
    monkeypatch.chdir(elsewhere)

    @flow(task_runner=CONFIGURED)
    def started_elsewhere() -> dict[str, Done]:
        monkeypatch.chdir(root)
        monkeypatch.setenv("BEFT_DATA_DIR", "own")
        settings = PipelineSettings.read(root / "params.yaml")
        done: dict[str, Done] = {}
        for name in ("fetch", "validate_raw", "prepare", "validate", "probe"):
            step = find_step(name)
            done[name] = run_through_prefect(
                step, settings, {one: done[one].folder for one in step.reads}, root, "mine"
            )
        done["look"] = run_through_prefect(look_around_step, settings, {}, root)
        return done

    done = started_elsewhere()
    assert "mine.csv" in str(read_json(done["fetch"].folder / "source.json"))
    assert done["validate"].record.summary["expectations"] == 0
    assert (done["probe"].folder / "before.safetensors").is_file()
    assert {"BEFT_DATA_DIR"} <= set(done["look"].record.summary["variables"])
    assert not list(elsewhere.iterdir())


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK, "tcp://127.0.0.1:8786")
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with pytest.raises(InputError, match=r"beft\[dask\]"):
        task_runner()


def test_no_chain_waits_for_another_and_an_error_ends_its_own_alone() -> None:
    both, inbox = Barrier(2, timeout=20), SimpleQueue[Any]()
    posted: list[tuple[str, int]] = []

    def chain(name: str) -> str:
        both.wait()  # passes where another runs at the same time
        inbox.put(lambda: posted.append((name, get_ident())))
        if name == "b":
            raise BeftError("b is wrong")
        return name.upper()

    results, failures = run_chains({name: partial(chain, name) for name in "abcd"}, 2, inbox)
    assert results == {"a": "A", "c": "C", "d": "D"}
    assert {name: str(error) for name, error in failures.items()} == {"b": "b is wrong"}
    assert sorted(posted) == [(name, get_ident()) for name in "abcd"]


def test_what_fails_in_the_inbox_ends_the_chains() -> None:
    inbox = SimpleQueue[Any]()

    def chain() -> None:
        inbox.put(fail)
        STOPPING.wait(20)

    def fail() -> None:
        raise BeftError("MLflow is away")

    try:
        with pytest.raises(BeftError, match="MLflow is away"):
            run_chains({"a": chain}, 1, inbox)
        assert STOPPING.is_set()
    finally:
        STOPPING.clear()
