"""A method is one file in the package, or an entry point of an installed one: it is in the settings, and works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beft.files import sha256_file

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


def python(folder: Path, text: str, *others: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, *others)))}
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
    done = python(copy, "from beft.importance.registry import score; score('biggest')")
    assert "beft/importance/methods/biggest.py registers no importance method of the name 'biggest'" in done.stderr


def install(folder: Path, *, importance: str, merge: str) -> None:
    """Put a distribution with two methods into a folder, as pip does."""
    (folder / "of_a_user.py").write_text(LARGEST + FIRST)
    information = folder / "of_a_user-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: of-a-user\nVersion: 1.0\n")
    points = f"[beft.importance_methods]\n{importance}\n\n[beft.merge_methods]\n{merge}\n"
    (information / "entry_points.txt").write_text(points)


def test_an_installed_package_adds_methods(tmp_path: Path) -> None:
    importance, merge = "largest_change = of_a_user:largest_change", "first_alone = of_a_user:first_alone"
    install(tmp_path, importance=importance, merge=merge)
    done = python(tmp_path, USE, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["{'value': (3.0,)}", "{'a': tensor([1.])}", "True", "True"]
    lines = "import sys", "from beft.registry import method_names, plug_ins", "print(method_names('merging/methods'))"
    program = "\n".join([*lines, "print(*plug_ins('merging/methods').items())", "print('of_a_user' in sys.modules)"])
    names, source, imported = python(tmp_path, program, ROOT).stdout.splitlines()
    assert names.endswith("'first_alone', 'mean', 'searched_weights', 'task_arithmetic', 'ties')")
    assert source == str(("of_a_user", sha256_file(tmp_path / "of_a_user.py"))), "of its package, for fingerprints"
    assert imported == "False"


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    install(tmp_path, importance="largest_change = of_a_user:missing", merge="first_alone = not_there:first_alone")
    for call in (
        "from beft.merging.registry import options; options('first_alone')",
        "from beft.importance.registry import score; score('largest_change')",
    ):
        assert "of-a-user 1.0 cannot be imported: " in python(tmp_path, call, ROOT).stderr


def test_an_installed_package_replaces_no_method(tmp_path: Path) -> None:
    install(tmp_path, importance="fisher = of_a_user:largest_change", merge="mean = of_a_user:first_alone")
    done = python(tmp_path, "from beft.merging.registry import merge_deltas; merge_deltas('mean', [])", ROOT)
    assert "of_a_user:first_alone has the name of a merge method of beft: mean" in done.stderr
