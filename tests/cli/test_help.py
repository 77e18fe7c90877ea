"""Help, version, and how an unexpected end is told."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from tests.cli.workspace import ROOT, Answer, Beft

SLOW = {"torch", "transformers", "sklearn", "pandas", "matplotlib", "prefect", "mlflow", "evaluate", "dvc", "yaml"}


def test_help_answers_at_once() -> None:
    """Nothing slow is imported, and the fastest of three starts takes under a second."""
    program = (
        "import sys\nfrom flows.cli import status_of\nstatus_of(['--help'])\n"
        f"sys.stderr.write(' '.join(sorted({SLOW} & set(sys.modules))))"
    )
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        seconds.append(time.monotonic() - began)
        assert "predict" in done.stdout and "run" in done.stdout
        assert done.stderr == ""
    assert min(seconds) < 1


def test_version(beft: Beft) -> None:
    assert beft("--version") == Answer(0, "beft 0.1.0\n", "")


def test_no_command_shows_the_help(beft: Beft) -> None:
    answer = beft()
    assert answer.status == 0
    assert "Commands:" in answer.out


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """Make ``beft inspect`` raise."""

    def install(error: BaseException) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("beft.training.inspection.inspect_base", fail)

    yield install


def test_a_fault_of_our_own(beft: Beft, broken: Callable[[BaseException], None]) -> None:
    broken(ZeroDivisionError("by zero"))
    answer = beft("inspect", "base")
    assert answer.status == 1
    assert "ZeroDivisionError" in answer.err and "BEFT_DEBUG=1" in answer.err and "Traceback" not in answer.err


def test_debug_shows_where(
    beft: Beft, broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(ZeroDivisionError("by zero"))
    monkeypatch.setenv("BEFT_DEBUG", "1")
    answer = beft("inspect", "base")
    assert answer.status == 1
    assert "Traceback" in answer.err


def test_control_c(beft: Beft, broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    answer = beft("inspect", "base")
    assert answer.status == 130
    assert answer.err.strip() == "beft: stopped"


def test_a_closed_pipe_is_no_error_to_show(made: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "datasets", "ls"],
            cwd=made,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert "Traceback" not in done.stderr


def commands_below(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_below(below, (*path, name))


@pytest.mark.parametrize("path", [path for path, _ in commands_below(get_command(app))], ids=" ".join)
def test_the_help_of_every_command_is_whole(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences that end, options that are explained, no text cut off, and nothing wider than a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, [*path, "--help"], prog_name="beft")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith(" ".join(["Usage: beft", *path, ""]))
    assert lines[2].endswith((".", ",")) or lines[3].endswith("."), lines[2]
    assert all(len(line) <= 80 for line in lines)
    assert not re.search(r"\[\[|``|\bNone\b|</|\.\.\. *$", "\n".join(lines[1:]), re.MULTILINE), done.output
    for opening, closing in ("[]", "()", "<>"):
        counted = done.output.replace("x>=", "").replace("<=x<=", "")
        assert counted.count(opening) == counted.count(closing)
    [command] = [found for below, found in commands_below(get_command(app)) if below == path]
    for parameter in command.params:
        assert (parameter.help or "").endswith("."), f"{parameter.name}: {parameter.help}"
