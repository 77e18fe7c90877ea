"""`beft mlflow-server` as a process, started as a user starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.servers.server import ROOT, Server

__all__ = ["ROOT", "MlflowServer", "mlflow_server"]


class MlflowServer(Server):
    """MLflow's server of a folder."""

    def command(self) -> list[str]:
        return ["-m", "flows.cli", "mlflow-server"]

    def health(self) -> str:
        return "/health"


@contextmanager
def mlflow_server(folder: Path, *options: str, **environment: str) -> Iterator[MlflowServer]:
    """A server that works in a folder, from when it answers to the end of the block."""
    server = MlflowServer(folder, options, environment)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()
