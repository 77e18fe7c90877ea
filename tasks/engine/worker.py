"""The process of an isolated step: it reads the call from standard input, runs it, and answers on standard output."""

import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beft.errors import BeftError, InputError
from beft.files import write_json
from tasks.engine.declaration import find_declared
from tasks.engine.execution import call_function
from tasks.engine.fingerprint import source_sha256
from tasks.engine.isolated_step import EVENT_MARK
from tasks.engine.provenance import process_facts
from tasks.engine.store import RECORD
from tasks.engine.transient import is_transient
from tasks.environment import configure_environment
from tasks.imports import without_collecting
from tasks.settings import PipelineSettings

logger = logging.getLogger(__name__)


def log_lines(level: int = logging.INFO) -> None:
    """Write the log of the project's modules to standard error, a line a message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("beft", "tasks"):
        logging.getLogger(name).setLevel(level)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _EventHandler(logging.StreamHandler[Any]):
    """Writes the events of a training as lines of JSON, each after a mark, between the lines of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """The mark and the event."""
        return EVENT_MARK + json.dumps(getattr(record, "event", None))


def send_events() -> None:
    """Write the events of a training to standard error, where ``isolated_step`` reads them."""
    events = logging.getLogger("beft.training.events")  # by its name: torch is imported later
    events.setLevel(logging.DEBUG)
    events.propagate = False
    events.addHandler(_EventHandler(sys.stderr))


def main() -> int:
    """The child: read the call, run it, answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else writes to standard output is a line of the log, not of the answer
    request = json.loads(sys.stdin.read())
    configure_environment()
    log_lines()
    send_events()
    try:
        answer: dict[str, Any] = {"summary": _run(request)}
    except BeftError as error:
        answer = {
            "error": str(error),
            "input": isinstance(error, InputError),
            "transient": is_transient(error) and not isinstance(error, InputError),
        }
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        answer = {"error": f"{request['step']}: {error.strerror or error}{where}", "input": False}
    except MemoryError:
        answer = {"error": f"{request['step']}: out of memory", "input": False}
    except Exception as error:
        logger.exception("%s failed", request["step"])
        said = f"{request['step']} failed: {type(error).__name__}: {error}"
        answer = {"error": said, "input": False, "transient": is_transient(error)}
    with answers:
        json.dump(answer, answers)
    return 0 if "summary" in answer else 1


def _run(request: Mapping[str, Any]) -> dict[str, Any]:
    with without_collecting():
        step = find_declared(importlib.import_module(request["module"]), request["step"])
        if step.computes:
            importlib.import_module("transformers.modeling_utils")  # most of what loads a base
    if source_sha256(step) != request["source"]:
        raise BeftError("the source of beft was changed since this run began; start it again")
    settings = PipelineSettings.from_mapping(request["settings"])
    if step.computes:
        from beft.models.device import resolve_compute, set_threads

        set_threads(resolve_compute(settings.base))  # this process is the step's own
        write_json(Path(request["out"]) / RECORD, process_facts(settings))  # whoever waits makes the record of it
    return call_function(
        step,
        settings,
        {name: Path(path) for name, path in request["inputs"].items()},
        Path(request["out"]),
        request["dataset"],
        Path(request["checkpoints"]) if request["checkpoints"] else None,
        request["extra"],
        root=Path(request["root"]),
    )


if __name__ == "__main__":
    sys.exit(main())
