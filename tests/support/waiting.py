"""Waiting for what another process or thread does."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(
    true: Callable[[], object],
    seconds: float = 30.0,
    *,
    process: "subprocess.Popen[Any] | None" = None,
    log: Path | None = None,
) -> None:
    """Wait until something is true.

    Args:
        process: Whose end before that is a failure.
        log: What is shown of a failure.
    """
    deadline = time.monotonic() + seconds
    while not true():
        said = log.read_text() if log else "it did not happen"
        assert process is None or process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
