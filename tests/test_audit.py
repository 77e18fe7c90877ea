"""The report on known vulnerabilities: what it says, and that it neither fails nor waits where nothing can be had."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit"


def load() -> Any:
    loader = importlib.machinery.SourceFileLoader("audit", str(SCRIPT))
    specification = importlib.util.spec_from_loader("audit", loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_without_a_package_index_it_says_so_at_once() -> None:
    began = time.monotonic()
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("not audited: pip-audit==") and "could not be installed" in done.stdout
    assert time.monotonic() - began < 30


def test_without_the_vulnerability_service_it_says_so() -> None:
    [line] = load().report([{"name": "torch", "skip_reason": "Dependency not found on PyPI"}])
    assert line.startswith("not audited: ")


def test_what_is_known_is_listed() -> None:
    first, second, third = load().report(
        [
            {"name": "torch", "version": "2.13.0", "vulns": []},
            {"name": "flask", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]},
            {"name": "dvc", "skip_reason": "Dependency not found on PyPI"},
        ]
    )
    assert first == "2 of 3 pinned packages looked up: 1 known vulnerabilities"
    assert second.strip() == "flask 1.0: PYSEC-1, fixed in 1.1, 2.0"
    assert third.strip() == "not looked up: dvc"


def test_what_does_not_end_is_ended() -> None:
    assert load().run(["http.server", "0", "--bind", "127.0.0.1"], 0.5) == "stopped after 0 s"
