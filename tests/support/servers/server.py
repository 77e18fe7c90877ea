"""A server as a process, which can be killed and started again."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.servers.postgresql import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]


@dataclass
class Server(ABC):
    """A server that can be killed and started again on the same port.

    Attributes:
        log: What it said, of all its starts.
    """

    folder: Path
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What Python is called with."""

    @abstractmethod
    def health(self) -> str:
        """The path at which it says that it is well."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> None:
        """Start it, without waiting."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command(), "--port", str(self.port), *self.options],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process is not None and self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}{self.health()}", timeout=2):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """End all its processes at once, in the middle of whatever they do."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            wait_until(lambda: not self._answers())
