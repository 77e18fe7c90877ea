"""The MLflow and Prefect pages of a workspace: both servers on this machine only, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer

from beft.errors import BeftError, InputError
from flows.servers.mlflow_server import CLIENT, LOOPBACK, personal_arguments, require_free
from tasks.engine.supervisor import end, start
from tasks.environment import configure_environment
from tasks.settings import PipelineSettings

_START_SECONDS = 180
_STOP_SECONDS = 15


@dataclass(frozen=True)
class _Server:
    """One server: its module, arguments, port, and the path at which it says that it is well."""

    name: str
    shows: str
    option: str
    port: int
    health: str
    arguments: tuple[str, ...]

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def answers(self) -> bool:
        """Whether it says that it is well."""
        try:
            # No proxy of the environment stands between this machine and itself.
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"{self.address}{self.health}", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False


def serve(root: Path, *, mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, print their addresses, and stop both on Ctrl-C or SIGTERM.

    Raises:
        InputError: A port is taken.
        BeftError: A server does not start, or stops by itself.
    """
    configure_environment(root)
    servers = _servers(root.resolve(), mlflow_port, prefect_port)
    for server in servers:
        require_free(LOOPBACK, server.port, server.name, f"ui {server.option} …")
    logs = Path(os.environ["PREFECT_HOME"]) / "ui"
    logs.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it puts into the background deaf to SIGINT
        signal.signal(number, _interrupt)
    typer.echo("Starting the MLflow and Prefect servers …")
    try:
        with _running(servers, root, logs) as processes:
            _wait_until_well(servers, processes, logs)
            for server in servers:
                page = runs_page(server.address, root) if server.name == "MLflow" else server.address
                typer.echo(f"{server.name:8} {page}   {server.shows}")
            typer.echo("Ctrl-C stops both.")
            _watch(servers, processes, logs)
    except KeyboardInterrupt:
        typer.echo("\nBoth servers are stopped.")


def runs_page(address: str, root: Path) -> str:
    """The address of the table of runs of the project's experiment; MLflow's start page is about traces.

    Args:
        address: Of the MLflow server.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        settings = PipelineSettings.read(root / "params.yaml")
    except InputError:
        settings = PipelineSettings()
    try:
        experiment = MlflowClient(address).get_experiment_by_name(settings.tracking.experiment)
    except MlflowException:
        experiment = None
    if experiment is None:  # nothing has run yet
        return address
    return f"{address}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"


def _servers(root: Path, mlflow_port: int, prefect_port: int) -> tuple[_Server, ...]:
    mlflow = personal_arguments(root, LOOPBACK, mlflow_port)
    prefect = ("prefect", "server", "start", "--host", LOOPBACK, "--port", str(prefect_port))
    return (
        _Server("MLflow", "runs side by side, models", "--mlflow-port", mlflow_port, "/health", mlflow),
        _Server("Prefect", "flow runs, their tasks and logs", "--prefect-port", prefect_port, "/api/health", prefect),
    )


@contextmanager
def _running(servers: tuple[_Server, ...], root: Path, logs: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both processes, each in a session of its own, so that Ctrl-C reaches this process alone; they end with it."""
    processes: list[subprocess.Popen[bytes]] = []
    # The servers are the ones that answer here; a client's addresses in the environment would mislead them.
    environment = {name: value for name, value in os.environ.items() if name not in CLIENT}
    [prefect] = [server for server in servers if server.name == "Prefect"]
    environment["PREFECT_SERVER_UI_API_URL"] = f"{prefect.address}/api"  # or its pages ask port 4200
    try:
        for server in servers:
            with _log(server, logs).open("wb") as log:
                processes.append(
                    start(
                        [sys.executable, "-m", *server.arguments],
                        patience=_STOP_SECONDS,
                        cwd=root,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        yield processes
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # stopping takes a moment; a second Ctrl-C must not cut it short
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            end(process, _STOP_SECONDS)


def _wait_until_well(servers: tuple[_Server, ...], processes: list[subprocess.Popen[bytes]], logs: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    waiting = list(servers)
    while waiting:
        _require_alive(servers, processes, logs)
        if time.monotonic() > deadline:
            raise BeftError(f"{waiting[0].name} did not answer in {_START_SECONDS} s: see {_log(waiting[0], logs)}")
        waiting = [server for server in waiting if not server.answers()]
        time.sleep(0.3)


def _watch(servers: tuple[_Server, ...], processes: list[subprocess.Popen[bytes]], logs: Path) -> None:
    while True:
        _require_alive(servers, processes, logs)
        time.sleep(1)


def _require_alive(servers: tuple[_Server, ...], processes: list[subprocess.Popen[bytes]], logs: Path) -> None:
    for server, process in zip(servers, processes, strict=True):
        if process.poll() is not None:
            log = _log(server, logs)
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "it said nothing"
            raise BeftError(f"{server.name} stopped with status {process.returncode}: {last} (all of it: {log})")


def _log(server: _Server, logs: Path) -> Path:
    return logs / f"{server.name.lower()}.log"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
