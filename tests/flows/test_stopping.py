"""A run that is stopped in a training, by Ctrl-C on a terminal or by what ends a whole group of processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.beft.tiny_bases import save_base
from tests.conftest import build_tiny
from tests.support.small_data import small_workspace

PROJECT = Path(__file__).resolve().parent.parent.parent
TABLE = ["reproduce", "table1", "--datasets", "mine", "--regime", "60", "--methods", "value", "--seeds", "1"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a small dataset and a tiny base, and a training of very many steps."""
    base = save_base(tmp_path / "base", build_tiny("bert"), pooling="mean")
    small_workspace(
        tmp_path,
        {
            "datasets": {"mine": {"size": 60, "max_length": 16}},
            "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
            "train": {"epochs": 1000, "batch_size": 1},
            "probe": {"epochs": 1},
        },
    )
    return tmp_path


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"]
)
def test_it_ends_at_once_says_so_and_leaves_nothing_running(root: Path, number: signal.Signals, status: int) -> None:
    named = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in named}
    environment |= {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(root / "prefect")}
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *TABLE],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # what runs in the background of a shell, as these tests may, ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    started = [psutil.Process(process.pid)]
    try:
        wait_until(lambda: process.poll() is not None or "epoch 3/" in (root / "log").read_text(), 240, "the training")
        assert process.poll() is None, (root / "log").read_text()
        started += started[0].children(recursive=True)
        assert len(started) > 2  # the run, Prefect's server, the step
        os.killpg(process.pid, number)
        assert process.wait(60) == status, (root / "log").read_text()
        wait_until(lambda: not any(one.is_running() for one in started), 20, "the end of all that it started")
    finally:
        for one in started:
            if one.is_running():
                one.kill()

    said = (root / "log").read_text()
    assert "measure/mine: stopped; started again, it goes on" in said
    assert "Finished in state Crashed" in said  # Prefect's server was still there to be told
    assert "Traceback" not in said and "inside beft" not in said, said
    assert ("beft: stopped" in said) == (number == signal.SIGINT)
    assert run_statuses(root) == {"KILLED"}


def run_statuses(root: Path) -> set[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("beft-reproduce")
    assert experiment is not None
    return {run.info.status for run in client.search_runs([experiment.experiment_id])}
