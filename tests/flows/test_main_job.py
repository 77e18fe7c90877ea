"""A run of the main job that has nothing to do: no server is started for it, and it is recorded as every other."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.files import read_json, sha256_file, sha256_tree, write_text
from tasks.settings import PipelineSettings
from tests.conftest import build_tiny
from tests.support.dvc_workspace import DATA_STAGES, PROJECT
from tests.support.small_data import small_workspace
from tests.support.tiny_bases import save_base

STEPS = 11


def beft_run(root: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """``beft run``, as the terminal starts it: no server is named, and Prefect's home is empty."""
    shutil.rmtree(root / "home", ignore_errors=True)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "MLFLOW_TRACKING_URI" and not name.startswith("PREFECT_")
    }
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "run"],
        cwd=root,
        env=inherited | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(root / "home")} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def started_a_server(root: Path) -> bool:
    return (root / "home" / "prefect.db").exists()


def parents(root: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("beft").experiment_id])
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a finished run, whose data DVC makes and pushes."""
    folder = tmp_path_factory.mktemp("main_job")
    base = save_base(folder / "base", build_tiny("bert"), pooling="mean")
    small_workspace(
        folder,
        {
            "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
            "probe": {"epochs": 1},
            "train": {"epochs": 1},
            "evaluate": {"resamples": 100},
        },
    )
    stages = {name: {"foreach": "${datasets}", "do": stage} for name, stage in DATA_STAGES.items()}
    write_text(folder / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write_text(folder / ".dvc" / "config", (PROJECT / ".dvc" / "config").read_text())
    done = beft_run(folder)
    assert done.returncode == 0, done.stderr
    assert started_a_server(folder)
    return folder


@pytest.mark.server
@pytest.mark.slow
def test_it_starts_no_server_and_is_recorded(root: Path) -> None:
    before = read_json(root / "runs" / "latest" / "run.json")
    [parent] = parents(root)
    steps, lock = sha256_tree(root / "runs" / "steps"), sha256_file(root / "dvc.lock")
    pushed = next(path for path in sorted((root / ".dvc-remote").rglob("*")) if path.is_file())
    pushed.unlink()

    done = beft_run(root)
    assert done.returncode == 0, done.stderr
    assert not started_a_server(root)
    assert pushed.is_file()
    assert f"{STEPS} of {STEPS} steps were finished already and reused." in done.stdout
    assert "| INFO    | tasks.engine.execution - train/mine: reused" in done.stderr
    assert "Traceback" not in done.stderr

    record = read_json(root / "runs" / "latest" / "run.json")
    assert record["status"] == "FINISHED" and record["started"] > before["started"]
    assert all(step["reused"] for step in record["steps"].values())
    changed = {"started", "finished", "steps", "prefect_flow_run"}
    assert {name: record[name] for name in record.keys() - changed} == {
        name: before[name] for name in before.keys() - changed
    }
    assert before["prefect_flow_run"] and record["prefect_flow_run"] is None
    [again] = parents(root)
    assert again.to_dictionary() == parent.to_dictionary()
    assert (sha256_tree(root / "runs" / "steps"), sha256_file(root / "dvc.lock")) == (steps, lock)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("lost", ["report/report.html", "data/prepared/mine/train.parquet"])
def test_where_something_is_gone_it_is_made_with_a_server(root: Path, lost: str) -> None:
    path = root / "runs" / "latest" / lost if lost.startswith("report") else root / lost
    path.unlink()
    done = beft_run(root)
    assert done.returncode == 0, done.stderr
    assert started_a_server(root)
    assert "the run goes on with Prefect" in done.stderr
    assert path.is_file()
    record = read_json(root / "runs" / "latest" / "run.json")
    assert record["status"] == "FINISHED" and record["prefect_flow_run"]
    made = {"report"} if lost.startswith("report") else set()  # DVC takes it out of its cache
    assert {key for key, step in record["steps"].items() if not step["reused"]} >= made
    assert [run.info.status for run in parents(root)] == ["FINISHED"]


@pytest.mark.server
@pytest.mark.slow
def test_a_server_that_is_there_shows_it(
    root: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.client.orchestration import get_client

    from flows.main_job import run_main_job

    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = run_main_job(PipelineSettings.read(root / "params.yaml"))
    assert all(step["reused"] for step in record["steps"].values())
    assert f"{STEPS} of {STEPS} steps were finished already and reused." in capsys.readouterr().out
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(record["prefect_flow_run"]).state.is_completed()
    [parent] = parents(root)
    assert parent.data.tags["prefect.flow_run"] == record["prefect_flow_run"]


@pytest.mark.server
@pytest.mark.slow
def test_the_aliases_are_those_of_now(root: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    [before] = read_json(root / "runs" / "latest" / "run.json")["models"]
    assert before["aliases"] == ["challenger"] and not before["champion"]
    for champion in (True, False):  # promoted, and rolled back
        if champion:
            client.set_registered_model_alias(before["name"], "champion", before["version"])
        else:
            client.delete_registered_model_alias(before["name"], "champion")
        done = beft_run(root)
        assert done.returncode == 0, done.stderr
        assert not started_a_server(root)
        [model] = read_json(root / "runs" / "latest" / "run.json")["models"]
        aliases = ["challenger", "champion"] if champion else ["challenger"]
        assert model == before | {"aliases": aliases, "champion": champion}
        assert f"version {before['version']} ({', '.join(aliases)})" in done.stdout
        assert ("mine: decided when it was registered: no champion" in done.stdout) != champion


def test_what_it_imports_takes_no_seconds() -> None:
    """The declarations of all steps and what they compute with, but none of the tools."""
    slow = ("prefect", "mlflow", "transformers", "scipy", "sklearn", "pandas", "great_expectations", "matplotlib")
    program = (
        "import sys\n"
        "import flows.main_job\n"
        "from tasks.engine.fingerprint import compute_environment\n"
        "from tasks.pipeline import STEPS, find_step\n"
        "from tasks.settings import PipelineSettings\n"
        "[find_step(name) for name in STEPS]\n"
        "compute_environment(PipelineSettings().base)\n"
        f"print([name for name in {slow} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_sigterm_ends_it_with_a_record() -> None:
    program = (
        "import os, signal, sys\n"
        "from flows.runs.run_status import ending, ending_by_sigterm\n"
        "with ending_by_sigterm(), ending(lambda *end: print(*end, flush=True)):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('not reached')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "KILLED TerminationSignal\n"
