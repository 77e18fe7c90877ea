"""The Python of the README and the notebook run as they are written."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
TOUR = ROOT / "docs" / "tour.ipynb"


def code_cells() -> list[str]:
    """The source of each code cell of the notebook."""
    cells: list[dict[str, Any]] = json.loads(TOUR.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(program: str, folder: Path) -> str:
    """What a program prints, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_is_committed_without_outputs() -> None:
    cells: list[dict[str, Any]] = json.loads(TOUR.read_text())["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    printed = run("\n".join(code_cells()), tmp_path)
    assert "100 test rows" in printed and "head_only" in printed and "gain of" in printed
    assert (tmp_path / "adapters" / "reviews" / "beft.json").is_file()
