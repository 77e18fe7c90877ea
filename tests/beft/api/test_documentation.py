"""The Python of the README and the notebook run as they are written."""

import json
import re
import subprocess
import sys
import textwrap
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


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    """On fewer rows and epochs than it names; ``a`` and ``b`` are adapters."""
    [block] = [one for one in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S) if "beft" in one]
    *lines, merge = block.strip().splitlines()
    assert merge.startswith("beft.merge([a, b]")
    small = textwrap.dedent("""
        import beft, beft.training_settings
        beft.training_settings.EPOCHS = beft.training_settings.MAX_EPOCHS = 1
        load = beft.load_dataset
        beft.load_dataset = lambda name, size: load(name, size=40, test_rows=20, gate_rows=0)
    """)
    printed = run("\n".join([small, *lines, "a = b = result.adapter", f"print(len({merge}))"]), tmp_path)
    assert printed.endswith("2\n") and "20 test rows" in printed
