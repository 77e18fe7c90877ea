"""A run that is stopped in a training, by Ctrl-C on a terminal or by what ends a whole group of processes."""

import fcntl
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from beft.files import read_json
from flows.deployments.deployment import deploy
from flows.servers.prefect_server import server_address
from tests.conftest import build_tiny
from tests.faults.workspace import small_faulty
from tests.flows.test_reproduce import runs
from tests.support.servers.mlflow_server import mlflow_server
from tests.support.servers.postgresql import free_port
from tests.support.small_data import small_workspace
from tests.support.tiny_bases import save_base
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
            "train": {"loss": "cross_entropy", "epochs": 1000, "batch_size": 1},
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
        wait_until(lambda: "epoch 3/" in (root / "log").read_text(), 600, process=process, log=root / "log")
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
    assert "measure/mine: stopped; run it again to resume" in said
    assert "Finished in state Crashed" in said  # Prefect's server was still there to be told
    assert "Traceback" not in said and "inside beft" not in said, said
    assert ("beft: stopped" in said) == (number == signal.SIGINT)
    assert [run.info.status for run in runs(root)] == ["KILLED"]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("away", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_control_c_on_a_terminal_ends_it_within_seconds_where_mlflow_does_not_answer(
    root: Path, away: signal.Signals
) -> None:
    (root / "mlflow-server").mkdir()
    keyboard, terminal = pty.openpty()
    with mlflow_server(root / "mlflow-server") as server, (root / "log").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(root / "prefect")}
        environment |= {"PREFECT_API_URL": "", "MLFLOW_TRACKING_URI": server.address}
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *TABLE],
            cwd=root,
            env=environment,
            stdin=terminal,
            stdout=log,
            stderr=log,
            preexec_fn=at_terminal,
        )
        try:
            wait_until(lambda: "epoch 3/" in (root / "log").read_text(), 600, process=process, log=root / "log")
            assert server.process is not None
            for one in [*(servers := psutil.Process(server.process.pid).children(recursive=True)), server.process]:
                one.send_signal(away)
            os.write(keyboard, b"\x03")
            assert process.wait(45) == 130, (root / "log").read_text()
        finally:
            process.kill()
            process.wait()
            for one in servers:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    os.close(keyboard)
    os.close(terminal)
    said = (root / "log").read_text()
    assert "measure/mine: stopped; run it again to resume" in said and "beft: stopped" in said
    assert "could not be written into all of its records: no MLflow server answers" in said
    [path] = (root / "runs").glob("*/run.json")
    assert read_json(path)["status"] == "KILLED"


def at_terminal() -> None:
    """In the child: its standard input is the terminal that sends it Ctrl-C."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_control_c_ends_a_run_at_once_that_is_registering(tmp_path: Path) -> None:
    """Whatever it waits for there: MLflow's client asks a server for minutes that goes away in the middle."""
    faulty = small_faulty(tmp_path)
    with faulty.running(stop="register") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(45) == 130
    assert faulty.message() == "stopped"
    assert faulty.registry()["parents"] == ["KILLED"]


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("command", ["mlflow-server", "ui"])
def test_the_servers_end_with_the_command_that_started_them(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    mlflow, prefect = free_port(), free_port()
    ports = {
        "mlflow-server": ["--port", str(mlflow)],
        "ui": ["--mlflow-port", str(mlflow), "--prefect-port", str(prefect)],
    }
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(tmp_path / "prefect")}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", command, *ports[command]],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
        )
    started: list[psutil.Process] = []
    try:
        wait_until(lambda: answers(mlflow) and (command != "ui" or answers(prefect)), 180, process=process)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3  # between us and a server stands the process that ends it
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -number)
        assert not psutil.wait_procs(started, 20)[1]
        assert not answers(mlflow) and not answers(prefect)
    finally:
        for one in (*started, process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_worker_and_its_flow_run_end_with_the_command_that_is_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow run is a process of the worker's; a training runs in a child of it."""
    from prefect.deployments import run_deployment

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(PROJECT / "prefect.yaml", root)
    deploy(root)
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PREFECT_API_URL": server_address()}
    with (root / "log").open("w") as log:
        command = [sys.executable, "-m", "flows.cli", "worker", "--pool", "gpu"]
        worker = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    started: list[psutil.Process] = []
    try:
        run_deployment("adapt/nightly", timeout=0)
        wait_until(lambda: "value: epoch 1/" in (root / "log").read_text(), 600, process=worker, log=root / "log")
        started = psutil.Process(worker.pid).children(recursive=True)
        assert any("tasks.engine.worker" in one.cmdline() for one in started)
        worker.kill()
        worker.wait()
        assert not psutil.wait_procs(started, 20)[1]
    finally:
        for one in (*started, worker):
            with suppress(psutil.NoSuchProcess):
                one.kill()
