"""Small real steps for the tests of the drivers: they read files, write files, and some of them go wrong."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from beft.errors import BeftError, InputError
from beft.files import sha256_file, write_json, write_text
from beft.training.engine.progress import EVENTS
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings

log = logging.getLogger("tasks.small")


def count(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Count the words of a text, and write the text's hash and the seed beside the count."""
    text = (inputs["raw"] / "text.txt").read_text()
    words = len(text.split())
    write_text(out / "words.txt", f"{words}\n")
    write_json(out / "more" / "facts.json", {"seed": settings.seed, "sha256": sha256_file(inputs["raw"] / "text.txt")})
    write_json(out / "cost.json", {"seconds": time.monotonic()})
    return {"words": words}


count_step = Step(count, reads=("raw",), settings=("seed",))


def double(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Double the count, in a process of its own."""
    log.info("doubling in process %d", os.getpid())
    EVENTS.debug("half of it", extra={"event": {"pass": "double", "done": 1, "all": 2}})
    sys.stdout.write("a library's own line\n")
    words = 2 * int((inputs["count"] / "words.txt").read_text())
    write_text(out / "doubled.txt", f"{words}\n")
    return {"doubled": words, "pid": os.getpid()}


double_step = Step(double, reads=("count",), isolated=True)


def refuse(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write half of the output, then find the input wrong."""
    write_text(out / "half.txt", "half")
    raise InputError("column 'text' is missing; the file has: label")


refuse_step = Step(refuse, isolated=True)


def fail(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Fail in the way that the text says."""
    how = (inputs["raw"] / "text.txt").read_text()
    if how == "beft":
        raise BeftError("no candidate moved")
    if how == "value":
        raise ValueError("of a programmer")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "network":
        raise BeftError("the hub does not answer") from ConnectionError("reset")
    if how == "exit":
        sys.exit(3)
    raise OSError(28, "No space left on device", str(out / "weights"))


fail_step = Step(fail, reads=("raw",), isolated=True)


def linger(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write the process's number into the input folder, then take a minute."""
    write_text(inputs["raw"] / "pid", str(os.getpid()))
    time.sleep(60)
    return {}


linger_step = Step(linger, reads=("raw",), isolated=True)


def leave_behind(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Start two processes that go on and hold all pipes open, one in a session of its own, and end."""
    started = [subprocess.Popen(["sleep", "60"], start_new_session=apart) for apart in (False, True)]
    return {"left": [process.pid for process in started]}


leave_behind_step = Step(leave_behind, isolated=True)


def train_on(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    checkpoints: Path | None = None,
) -> dict[str, JSON]:
    """Count attempts in the folder that survives them, and only finish at the second."""
    assert checkpoints is not None
    attempts = len(list(checkpoints.iterdir())) + 1
    write_text(checkpoints / str(attempts), "")
    if attempts == 1:
        raise BeftError("interrupted")
    write_text(out / "attempts.txt", str(attempts))
    return {"attempts": attempts}


train_on_step = Step(train_on, isolated=True)


def meddle(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Change its own input, as another process might."""
    write_text(inputs["raw"] / "text.txt", "something else")
    return {}


meddle_step = Step(meddle, reads=("raw",))


def occupy(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write what it sees of the GPUs into the input folder, and end when a file tells it to."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    write_json(inputs["raw"] / f"{dataset}.json", {"pid": os.getpid(), "seen": seen})
    deadline = time.monotonic() + 60
    while not (inputs["raw"] / "end").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    return {"seen": seen}


occupy_step = Step(occupy, reads=("raw",), isolated=True, tags=("gpu",))


def look_around(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Give the names of its environment's variables."""
    return {"variables": sorted(os.environ)}


look_around_step = Step(look_around, isolated=True)
