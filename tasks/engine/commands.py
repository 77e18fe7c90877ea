"""A command that is run for us: its lines go to the log as they come, and the error that one of our own processes left
in it is given back as it was."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beft.errors import BeftError, InputError
from beft.files import read_json, write_json
from tasks.engine.supervisor import STOPPING, end, lines_of, start
from tasks.environment import environment_without_secrets

ERROR_FILE = "BEFT_ERROR_FILE"
"""The environment variable that names the file in which a process of ours leaves its error for whoever started it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandResult:
    """How a command ended.

    Attributes:
        lines: What it said, without blank lines.
        error: What a process of ours in it left; None where it left nothing.
    """

    status: int
    lines: list[str]
    error: BeftError | None


def run_command(
    arguments: Sequence[str],
    folder: Path,
    *,
    source: Path,
    inherited: Mapping[str, str] | None = None,
    **environment: str,
) -> CommandResult:
    """Run ``python`` with arguments in a folder and wait for it; it and all that it starts end when we end.

    Args:
        source: The folder whose ``beft`` and ``tasks`` it and its children import.
        inherited: The environment that it starts from; None: this process's own, without the passwords of servers.
        environment: Variables that are other than in that one.

    Raises:
        BeftError: The run that it belongs to was stopped.
    """
    if inherited is None:
        inherited = environment_without_secrets()
    with tempfile.TemporaryDirectory(prefix="beft-") as kept:
        left = Path(kept) / "error.json"
        child = start(
            [sys.executable, *arguments],
            cwd=folder,
            env={
                **inherited,
                **_paths(source),
                ERROR_FILE: str(left),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert child.stdout
        lines = []
        try:
            for line in lines_of(child, child.stdout):
                if line.strip():
                    lines.append(line.strip())
                    logger.info("%s", line.rstrip())
            child.wait()
        finally:
            end(child)
            child.stdout.close()
        if STOPPING.is_set() and child.returncode:
            raise BeftError(f"{' '.join(arguments[:3])}: stopped; run it again to resume")
        return CommandResult(child.returncode, lines, _read_error(left))


def _paths(source: Path) -> Mapping[str, str]:
    """Whatever calls ``python`` there gets this one."""
    scripts = str(Path(sys.executable).parent)
    return {
        "PATH": os.pathsep.join(filter(None, [scripts, os.environ.get("PATH")])),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")])),
    }


def _read_error(path: Path) -> BeftError | None:
    if not path.is_file():
        return None
    stored = read_json(path)
    return (InputError if stored["input"] else BeftError)(stored["error"])


def write_error_file(error: BeftError) -> None:
    """Leave an error for whoever started this process, if someone asked for it."""
    path = os.environ.get(ERROR_FILE)
    if path:
        write_json(Path(path), {"error": str(error), "input": isinstance(error, InputError)})
