"""MLflow is away, locked, or cannot keep files: the run says so in a line, and goes on when it is started again."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.conftest import Seen
from tests.faults.striking import read_only
from tests.faults.workspace import STEPS, Faulty, small_faulty
from tests.support.servers.mlflow_server import MlflowServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that was not started yet."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def served(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """A workspace whose runs are kept by the server."""
    workspace = small_faulty(tmp_path_factory.mktemp("served"))
    workspace.options = ("--set", f"tracking.uri={server.address}")
    workspace.tracked_in = server.folder
    return workspace


def test_server_is_down_at_the_start(served: Faulty, server: MlflowServer, seen: Seen) -> None:
    assert served.run() == 1
    assert f"no MLflow server answers at {server.address}" in served.message()
    assert not served.finished()
    seen("message", served.message())
    seen("kept", "fetched and prepared data; nothing was trained")


def test_server_goes_down_in_the_middle(served: Faulty, server: MlflowServer, seen: Seen) -> None:
    server.start()
    server.wait()
    with served.running(stop="train/mine"):
        server.kill()
    assert f"no MLflow server answers at {server.address} after" in served.message()
    assert set(STEPS[:3]) <= served.finished() <= set(STEPS[:4])  # a step that has begun meanwhile ends
    server.start()
    server.wait()
    assert served.registry()["parents"] == ["RUNNING"]
    seen("message", served.message())
    seen("kept", "the training that had just ended, and a step that had begun; the MLflow run stays RUNNING")


def test_server_goes_down_at_the_end(served: Faulty, server: MlflowServer, undisturbed: Faulty, seen: Seen) -> None:
    with served.running(stop="register"):
        server.kill()
    assert f"no MLflow server answers at {server.address} after" in served.message()
    seen("message", served.message())
    seen("kept", "every step; one version, registered whole")
    server.start()
    server.wait()
    served.goes_on_as(undisturbed)
    seen("then", "the same MLflow run, version, adapter bytes")


def test_sqlite_is_locked(faulty: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    with (
        faulty.running(stop="probe/mine"),
        closing(sqlite3.connect(faulty.root / "mlflow" / "mlflow.db", isolation_level=None)) as holder,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        faulty.let_go()
    assert "locked" in faulty.message()
    assert "probe/mine" in faulty.finished()
    assert "register" not in faulty.finished()  # other steps go on while the database is waited for
    seen("message", faulty.message())
    seen("kept", "every step that had ended; nothing was registered")
    faulty.goes_on_as(undisturbed)
    seen("then", "one MLflow run, one version, the same adapter bytes")


def test_the_artifact_store_is_read_only(faulty: Faulty, undisturbed: Faulty, seen: Seen) -> None:
    with faulty.running(stop="evaluate/mine"), read_only(Path(faulty.root / "mlflow" / "artifacts")):
        faulty.let_go()
    assert "Read-only file system" in faulty.message()
    assert faulty.registry()["versions"] == []
    seen("message", faulty.message())
    seen("kept", "the step that had just ended; nothing was registered")
    faulty.goes_on_as(undisturbed)
    seen("then", "one MLflow run, one version, the same adapter bytes")
