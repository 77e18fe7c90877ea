"""`make` builds the environment once, with whatever name Python 3.11 has, and says what is missing."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Stands in for Python and for all that it installs: it writes down what it is asked to do.
STUB = """#!/bin/sh
echo "$0 $*" >> "$TOLD"
case "$*" in
  "-c import sys"*) exit ${WRONG_VERSION:-0} ;;
  "-m venv"*)
    [ -z "$NO_VENV" ] || { echo "ensurepip is not available"; exit 1; }
    rm -rf .venv; mkdir -p .venv/bin
    for name in python pip beft ruff mypy lint-imports; do cp "$0" .venv/bin/$name; done
    echo "#!$PWD/.venv/bin/python" > .venv/bin/pip ;;
  "-m pip install"*) [ -z "$NO_NETWORK" ] || { echo "ERROR: no matching distribution"; exit 1; } ;;
esac
"""

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return tmp_path / "told"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def make(project: Path, told: Path, tmp_path: Path) -> Make:
    """``make(target, python="python3.11", **environment)``, with the stub as the only Python."""

    def run(*arguments: str, python: str | None = "python3.11", **environment: str) -> subprocess.CompletedProcess[str]:
        commands = tmp_path / f"bin-{python}"
        commands.mkdir(exist_ok=True)
        for name in (
            "sh",
            "bash",
            "cat",
            "sha256sum",
            "cut",
            "rm",
            "cp",
            "mkdir",
            "head",
            "tail",
            "grep",
            "touch",
            "sed",
            "expand",
            "find",
        ):
            if not (commands / name).exists():
                (commands / name).symlink_to(str(shutil.which(name)))
        if python:
            (commands / python).write_text(STUB)
            (commands / python).chmod(0o755)
        return subprocess.run(
            [str(shutil.which("make")), *arguments],
            cwd=project,
            env={"PATH": str(commands), "TOLD": str(told), "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def installs(told: Path) -> list[str]:
    return [line for line in told.read_text().splitlines() if "pip install" in line]


@pytest.mark.parametrize("python", ["python3.11", "python3", "python"])
def test_the_environment_is_built_once(make: Make, told: Path, python: str) -> None:
    first = make("run", python=python)
    assert first.returncode == 0, first.stderr
    assert "Building the environment" in first.stdout
    [install] = installs(told)
    assert "-c constraints.txt -e ." in install and "[dev]" not in install
    second = make("run", python=python)
    assert second.returncode == 0
    assert second.stdout == ""
    assert len(installs(told)) == 1
    assert told.read_text().count("beft run") == 2


def test_the_pages(make: Make, told: Path) -> None:
    assert make("ui").returncode == 0
    assert told.read_text().endswith("beft ui\n")


def test_the_mlflow_server(make: Make, told: Path) -> None:
    assert make("mlflow-server").returncode == 0
    assert told.read_text().endswith("beft mlflow-server\n")
    assert "[team]" not in installs(told)[0]
    assert make("mlflow-team", "ARGS=--port 5001").returncode == 0
    assert told.read_text().endswith("beft mlflow-server --team --port 5001\n")
    assert "-e .[team]" in installs(told)[1]
    assert make("run").returncode == make("test").returncode == make("mlflow-team").returncode == 0
    assert len(installs(told)) == 3


def test_the_tests_need_more_and_get_it(make: Make, told: Path) -> None:
    assert make("run").returncode == 0
    assert make("test", "ARGS=-m server").returncode == 0
    assert "-e .[dev]" in installs(told)[1]
    [line] = [line for line in told.read_text().splitlines() if "-m pytest" in line]
    assert line.endswith(" -m server")
    assert make("lint").returncode == make("run").returncode == 0
    assert len(installs(told)) == 2


def test_the_tools_of_development(make: Make, told: Path) -> None:
    assert make("format").returncode == make("docs").returncode == 0
    lines = told.read_text().splitlines()
    assert [line.rpartition("bin/")[2] for line in lines if "ruff" in line] == ["ruff check --fix .", "ruff format ."]
    [line] = [line for line in lines if "-m pdoc" in line]
    assert " --output-directory site beft " in line and line.endswith(" tasks flows")


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_what_is_installed_builds_again(make: Make, project: Path, told: Path, name: str) -> None:
    assert make("run").returncode == 0
    with (project / name).open("a") as file:
        file.write("# changed\n")
    assert make("run").returncode == 0
    assert len(installs(told)) == 2
    assert told.read_text().count("-m venv") == 1


def test_new_times_of_the_same_contents_build_nothing(make: Make, project: Path, told: Path) -> None:
    assert make("run").returncode == 0
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        os.utime(project / name)
    assert make("run").returncode == 0
    assert len(installs(told)) == 1


def test_clean_keeps_what_cannot_be_made_again(make: Make, project: Path) -> None:
    """The registry, the traffic with the labels that people gave, and the decisions on promotions."""
    kept = ("mlflow/mlflow.db", "runs/traffic/feedback/2026-01-02/a.parquet", "runs/promotions/films-0a/decision.json")
    removed = (
        "runs/steps/train-films-0a/step.json",
        "runs/0a/run.json",
        "artifacts/a",
        "reports/a",
        "beft/__pycache__/a",
    )
    for path in (*kept, *removed, *(f"{name}/a.py" for name in ("beft", "tasks", "flows", "tests", "benchmarks"))):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).touch()
    (project / "runs" / "latest").symlink_to("0a")
    for _ in range(2):
        answer = make("clean")
        assert answer.returncode == 0, answer.stderr
        assert all((project / path).is_file() for path in (*kept, "beft/a.py"))
        assert {path.name for path in (project / "runs").iterdir()} == {"traffic", "promotions"}
        assert not any((project / path).exists() for path in removed)
    shutil.rmtree(project / "runs")
    assert make("clean").returncode == 0


def test_no_python(make: Make) -> None:
    answer = make("run", python=None)
    assert answer.returncode != 0
    assert "needs Python 3.11" in answer.stderr and "apt-get install" in answer.stderr


def test_another_python(make: Make) -> None:
    answer = make("run", python="python3", WRONG_VERSION="1")
    assert answer.returncode != 0
    assert "needs Python 3.11" in answer.stderr


def test_no_venv(make: Make, project: Path) -> None:
    answer = make("run", NO_VENV="1")
    assert answer.returncode != 0
    assert "python3.11-venv" in answer.stderr
    assert not (project / ".venv").exists()


def test_pip_that_fails_is_heard_and_tried_again(make: Make, told: Path) -> None:
    answer = make("run", NO_NETWORK="1")
    assert answer.returncode != 0
    assert "no matching distribution" in answer.stderr and "install.log" in answer.stderr
    assert make("run").returncode == 0
    assert len(installs(told)) == 2


def test_help_lists_the_targets(make: Make) -> None:
    answer = make(python=None)
    assert answer.returncode == 0
    for target in ("run", "test", "ui", "deploy", "worker", "mlflow-server", "mlflow-team", "lint", "format", "clean"):
        assert f"\n{target} " in f"\n{answer.stdout}"
