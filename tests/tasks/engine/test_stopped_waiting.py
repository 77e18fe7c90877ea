"""What waits in a thread of a run that was stopped waits no more: for MLflow, for a GPU, for DVC's lock."""

import fcntl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from beft.errors import BeftError
from beft.settings import BaseSettings
from tasks.engine.compute_slots import GPUS, acquire_slot
from tasks.engine.supervisor import stopping_commands
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect
from tasks.versioning.dvc import reproduce
from tests.support.dvc_workspace import dvc_workspace


def stops_within(seconds: float, waiting: Callable[[], Any]) -> str:
    """Stop a run in which a thread waits; what the thread said at its end."""
    with ThreadPoolExecutor() as threads:
        with pytest.raises(KeyboardInterrupt), stopping_commands():
            waits = threads.submit(waiting)
            time.sleep(1)
            assert not waits.done()
            raise KeyboardInterrupt
        with pytest.raises(BeftError) as error:
            waits.result(seconds)
    with stopping_commands():
        pass  # the next run is not stopped
    return str(error.value)


def test_for_an_mlflow_server_that_has_answered_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 403)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    settings = PipelineSettings.from_mapping({"tracking": {"uri": address}})
    with pytest.raises(BeftError, match="refused"):
        connect(settings, tmp_path)
    server.shutdown()
    server.server_close()
    assert address in stops_within(10, lambda: connect(settings, tmp_path))


def test_for_a_gpu_that_another_run_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS, "0")
    monkeypatch.setattr("tasks.engine.compute_slots._shared_folder", lambda: tmp_path)

    def wait() -> None:
        with acquire_slot("train/mine", BaseSettings(), tmp_path):
            pass

    with (tmp_path / "gpu-0.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "train/mine: stopped" in stops_within(5, wait)


def test_for_dvc_which_another_process_uses(tmp_path: Path) -> None:
    root = dvc_workspace(tmp_path / "workspace")
    lock = root / ".dvc" / "tmp" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "stopped" in stops_within(10, lambda: reproduce(root, ["fetch@imdb"]))
