"""The MLflow and Prefect pages: both open on this machine, and both are gone after Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from beft.errors import InputError
from flows.servers.ui import serve
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tests.support.servers.postgresql import PASSWORD, USER, postgresql
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def schedules_fire(api: str) -> bool:
    """Whether the server plans the runs of a deployment with a schedule: a service of its own, which can fail alone."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.settings import PREFECT_API_URL, temporary_settings

    nightly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), active=True)
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow_from_name("adapt"), "nightly", schedules=[nightly])
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if client.read_flow_runs():
                return True
            time.sleep(0.5)
    return False


@pytest.fixture(params=["sqlite", "postgresql"])
def prefects_database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Variables that name the database of Prefect's server: its own SQLite, or the PostgreSQL of a team."""
    if request.param == "sqlite":
        yield {}
        return
    with postgresql() as port:
        address = f"postgresql+asyncpg://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{USER}"
        yield {"PREFECT_API_DATABASE_CONNECTION_URL": address}


@pytest.mark.server
def test_both_pages_until_control_c(
    tmp_path: Path, prefects_database: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow, prefect = free_port(), free_port()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = connect(PipelineSettings(), tmp_path).experiment
    ports = ["--mlflow-port", str(mlflow), "--prefect-port", str(prefect)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        **prefects_database,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "ui", *ports],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        said = "".join(lines)
        runs = f"http://127.0.0.1:{mlflow}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        assert runs in said and f"http://127.0.0.1:{prefect}" in said, said
        for port in (mlflow, prefect):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                assert "<html" in page.read().decode().lower()
        with urllib.request.urlopen(f"http://127.0.0.1:{prefect}/ui-settings", timeout=30) as told:
            assert json.load(told)["api_url"] == f"http://127.0.0.1:{prefect}/api"
        assert schedules_fire(f"http://127.0.0.1:{prefect}/api")
        assert (tmp_path / "mlflow" / "mlflow.db").is_file()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "stopped" in process.stdout.read()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (is_open(mlflow) or is_open(prefect)):
        time.sleep(0.2)
    assert not is_open(mlflow) and not is_open(prefect)


SLOW = """
import pathlib, signal, sys, time

def end(number, frame):
    time.sleep(3)
    pathlib.Path(f"{sys.argv[1]}.ended").touch()
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
pathlib.Path(f"{sys.argv[1]}.up").touch()
time.sleep(60)
"""
BOTH = """
import pathlib, signal, time
from flows.servers import ui

servers = [ui._Server(name, "", "", 1, "", ("slow", name)) for name in ("MLflow", "Prefect")]
signal.signal(signal.SIGINT, ui._interrupt)
try:
    with ui._running(servers, pathlib.Path.cwd(), pathlib.Path.cwd()):
        time.sleep(60)
except KeyboardInterrupt:
    pass
"""


def test_a_second_control_c_does_not_cut_the_end_of_the_servers_short(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    with subprocess.Popen([sys.executable, "-c", BOTH], cwd=tmp_path, env=environment) as process:
        wait_until(lambda: len(list(tmp_path.glob("*.up"))) == 2, 60, process=process)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.7)
        assert process.wait(30) == 0
    assert {path.name for path in tmp_path.glob("*.ended")} == {"MLflow.ended", "Prefect.ended"}


def test_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = int(other.getsockname()[1])
        with pytest.raises(InputError, match=f"port {port}.*--prefect-port"):
            serve(tmp_path, mlflow_port=free_port(), prefect_port=port)
