"""A run that is stopped in a training, by Ctrl-C on a terminal or by what ends a whole group of processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.beft.tiny_bases import save_base
from tests.conftest import build_tiny
from tests.flows.test_reproduce import runs
from tests.support.small_data import small_workspace
from tests.support.waiting import wait_until

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


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"]
)
def test_it_ends_at_once_says_so_and_leaves_nothing_running(root: Path, number: signal.Signals, status: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    # an empty address is as good as none
    environment |= {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(root / "prefect"), "PREFECT_API_URL": ""}
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
        wait_until(lambda: "epoch 3/" in (root / "log").read_text(), 240, process=process, log=root / "log")
        started += started[0].children(recursive=True)
        assert len(started) > 2  # the run, Prefect's server, the step
        os.killpg(process.pid, number)
        assert process.wait(60) == status, (root / "log").read_text()
        assert not psutil.wait_procs(started, 20)[1]
    finally:
        for one in started:
            if one.is_running():
                one.kill()

    said = (root / "log").read_text()
    assert "measure/mine: stopped; started again, it goes on" in said
    assert "Finished in state Crashed" in said  # Prefect's server was still there to be told
    assert "Traceback" not in said and "inside beft" not in said, said
    assert ("beft: stopped" in said) == (number == signal.SIGINT)
    assert [run.info.status for run in runs(root)] == ["KILLED"]
