"""What holds for every test run: no telemetry, Prefect's home in a folder that goes away, and the time of each part."""

import atexit
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tasks.environment import QUIET, TOOLS

PARTS = {"unit and laws": 30, "servers": 22, "end to end": 10}
"""The parts of the suite and the minutes that each may take on two slow cores, added up over processes."""

_seconds: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    """Settle the environment before any test imports a tool that reads it."""
    for name, value in (QUIET | TOOLS).items():
        os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:  # one a process
        home = tempfile.mkdtemp(prefix="beft-tests-prefect-")
        os.environ["PREFECT_HOME"] = home
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test's seconds (set-up and tear-down too) to its part."""
    end_to_end, server = "end_to_end" in report.keywords, "server" in report.keywords
    _seconds["end to end" if end_to_end else "servers" if server else "unit and laws"] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each part took, and keep it in the file that BEFT_PART_TIMES names."""
    lines = [f"{part}\t{_seconds[part]:.0f}\t{60 * minutes}" for part, minutes in PARTS.items() if part in _seconds]
    if kept := os.environ.get("BEFT_PART_TIMES"):
        Path(kept).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    terminalreporter.section("minutes of each part")
    for line in lines:
        part, seconds, budget = line.split("\t")
        terminalreporter.line(f"{part:15} {int(seconds) / 60:5.1f} of {int(budget) // 60}")
