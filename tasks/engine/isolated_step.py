"""Run a step in a process of its own: torch's random generator and threads are those of a process.

The parent gives the call as JSON on standard input to ``tasks.engine.worker``. What the child logs comes line by line
on its standard error and goes on to the parent's log; a line that begins with a mark is an event of a training, in
JSON. The child's result, or the error that the user is to see, comes as JSON on standard output. The child and all that
it starts end with its parent, also when that is killed (``tasks.engine.supervisor``); Ctrl-C on a terminal reaches the
parent alone.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from beft.errors import BeftError, InputError
from tasks.engine.compute_slots import NO_SLOT, ComputeSlot
from tasks.engine.fingerprint import source_sha256
from tasks.engine.store import StepRun
from tasks.engine.supervisor import STOPPING, end, lines_of, start
from tasks.environment import environment_without_secrets

Event = dict[str, Any]
"""How far a training is, as ``beft.training.engine.progress.EVENTS`` says it; or ``{"started": True}``."""

LISTENER: ContextVar[Callable[[Event], None] | None] = ContextVar("LISTENER", default=None)
"""Takes every event of the child, in the thread that waits for it."""

EVENT_MARK = "\x1e"
"""What a line of the child begins with that is an event in JSON, and no line of the log."""

logger = logging.getLogger(__name__)


def import_path() -> str:
    """The ``PYTHONPATH`` by which a child imports what this process does."""
    return os.pathsep.join(entry for entry in sys.path if entry)


def run_in_subprocess(
    call: StepRun, out: Path, checkpoints: Path | None = None, place: ComputeSlot = NO_SLOT
) -> dict[str, Any]:
    """Run a step's function in a child process, and wait for it.

    Args:
        place: What the child computes on; it holds it as well.

    Raises:
        InputError: The function raised one; the message is the same.
        BeftError: The function raised one, or anything else, or the child was killed.
    """
    function = call.step.function
    request = {
        "module": function.__module__,
        "step": call.step.name,
        "source": source_sha256(call.step),
        "settings": call.settings.model_dump(mode="json"),
        "inputs": {name: str(path.resolve()) for name, path in call.inputs.items()},
        "out": str(out.resolve()),
        "dataset": call.dataset,
        "root": str(call.root.resolve()),
        "checkpoints": str(checkpoints.resolve()) if checkpoints else None,
        "extra": dict(call.extra or {}),
    }
    # Files, not pipes: another process that holds a pipe open can be waited for without end.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        child = start(
            [
                sys.executable,
                "-m",
                "tasks.engine.worker",
                call.key,
            ],  # the key is for whoever looks at the list of processes
            stdin=asked,
            stdout=answer,
            stderr=subprocess.PIPE,
            cwd=call.root,
            env=environment_without_secrets()
            | {"PYTHONPATH": import_path(), "PYTHONUNBUFFERED": "1"}
            | place.environment,
            pass_fds=place.descriptors,
        )
        late = threading.Event()
        last = _listen(child, call.step.time_limit, late)
        answer.seek(0)
        said = answer.read().decode(errors="replace")
    status = child.returncode
    if STOPPING.is_set() and status:
        raise BeftError(f"{call.key}: stopped; run it again to resume")
    if late.is_set():
        hours = call.step.time_limit / 3600
        raise BeftError(f"{call.key}: timed out after {hours:g} hours; run it again to resume from the checkpoint")
    return _answer(call.key, said, status, last)


def _listen(child: "subprocess.Popen[bytes]", time_limit: float, late: threading.Event) -> str:
    """Pass on what a child says until it ends, and end it after some seconds; the last line.

    Args:
        late: Set where it was ended for that.
    """
    timer = threading.Timer(time_limit, _end_late, (child, late))
    timer.daemon = True
    timer.start()
    last = ""
    listener = LISTENER.get()
    try:
        if listener is not None:
            listener({"started": True})
        for line in lines_of(child, child.stderr):
            if line.startswith(EVENT_MARK):
                if listener is not None:
                    listener(json.loads(line.removeprefix(EVENT_MARK)))
                continue
            last = line.rstrip() or last
            logger.info("%s", line.rstrip())
        child.wait()
    finally:
        timer.cancel()
        end(child)
        assert child.stderr
        child.stderr.close()
    return last


def _answer(key: str, text: str, status: int, last: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    if "summary" in answer and status == 0:
        summary: dict[str, Any] = answer["summary"]
        return summary
    if "error" in answer:
        if answer.get("transient"):
            raise BeftError(answer["error"]) from ConnectionError(answer["error"])
        raise (InputError if answer["input"] else BeftError)(answer["error"])
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        raise BeftError(f"{key}: its process was ended by {name}{hint}")
    raise BeftError(f"{key}: its process ended with status {status}: {last}")


def _end_late(child: "subprocess.Popen[bytes]", late: threading.Event) -> None:
    late.set()
    child.terminate()
