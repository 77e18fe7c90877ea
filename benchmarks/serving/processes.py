"""The processes of a measurement: servers, and the clients that ask them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.prepared import ROOT
from benchmarks.serving.client import Load

_START_SECONDS = 180


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def server(command: Sequence[str], port: int, *, health: str, cwd: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, with all of its own processes, for the length of a block; ready when it begins.

    Raises:
        RuntimeError: It does not become ready.
    """
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where MLflow finds uvicorn
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": programs}
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"beft-bench-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not answers(port, health):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.unlink()


def answers(port: int, path: str) -> bool:
    """Whether a server answers a path with success."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def get(port: int, path: str, *, post: bool = False) -> Any:
    """A JSON answer of a server."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method="POST" if post else "GET")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def counters(port: int) -> dict[str, float]:
    """The metrics of a server that have no label."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines if not line.startswith("#"))
        if "{" not in name
    }


def ask(load: Load) -> dict[str, Any]:
    """What the clients of a load saw, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.client", json.dumps(asdict(load))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def start_clients(load: Load, printed: Path) -> subprocess.Popen[bytes]:
    """The same, without waiting for it.

    Args:
        printed: The file that its JSON goes to.
    """
    command = [sys.executable, "-m", "benchmarks.serving.client", json.dumps(asdict(load))]
    with printed.open("wb") as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output)
