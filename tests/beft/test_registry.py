"""A method is one file: dropped into a copy of the package, it is in its settings and its registry, and works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

LARGEST = """
from beft.importance.registry import importance_method
from beft.importance.result import Importance

@importance_method("largest_change")
def largest_change(before, after):
    return Importance("largest_change", {s.term: [float((after[s] - before[s]).abs().max())] for s in after})
"""
FIRST = """
from beft.merging.registry import merge_method

@merge_method("first_alone")
def first_alone(adapters):
    return dict(adapters[0][0])
"""
USE = """
import torch
from beft.importance.registry import score
from beft.merging.registry import merge_deltas
from beft.settings import MergeSettings, ScoreSettings, Settings
from beft.sites.site import BiasSite

asked = {"score": {"methods": ["largest_change"], "select_by": "largest_change"}, "merge": {"methods": ["first_alone"]}}
settings = Settings.from_mapping(asked)
site = BiasSite("value", 0, "m", "bias", 0, 2, False)
[method] = settings.score.methods
print(score(method, before={site: torch.zeros(2)}, after={site: torch.tensor([1.0, -3.0])}).scores)
print(merge_deltas(settings.merge.methods[0], [({"a": torch.ones(1)}, 1.0), ({"a": torch.zeros(1)}, 1.0)]))
print("largest_change" in str(ScoreSettings.model_json_schema()))
print("first_alone" in str(MergeSettings.model_json_schema()))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package."""
    shutil.copytree(ROOT / "beft", tmp_path / "beft", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def python(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_file_that_is_dropped_in_is_known_everywhere(copy: Path) -> None:
    (copy / "beft" / "importance" / "methods" / "largest_change.py").write_text(LARGEST)
    (copy / "beft" / "merging" / "methods" / "first_alone.py").write_text(FIRST)
    done = python(copy, USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["{'value': (3.0,)}", "{'a': tensor([1.])}", "True", "True"]


def test_a_file_must_have_the_name_of_its_method(copy: Path) -> None:
    (copy / "beft" / "importance" / "methods" / "biggest.py").write_text(LARGEST)
    done = python(copy, "from beft.importance.registry import known_methods; known_methods()")
    assert "must have one name; not so: biggest, largest_change" in done.stderr
