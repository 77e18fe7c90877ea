"""A clean clone: DVC runs every stage, then nothing; the flow runs on a model of one's own; git sees neither."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from beft.files import read_json
from tests.conftest import build_tiny
from tests.support.tiny_bases import save_base

ROOT = Path(__file__).parent.parent.parent
CHANGES = {
    "base": {"source": "./my-model", "device": "cpu", "precision": "fp32", "threads": 1},
    "split": {"test_rows": 40, "gate_rows": 40},
    "probe": {"epochs": 1, "learning_rate": 0.01},
    "train": {"loss": "cross_entropy", "epochs": 1, "learning_rate": 0.01},
    "evaluate": {"resamples": 100},
}

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit with small settings and a tiny base, both committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("these sources are no git repository")
    folder = tmp_path_factory.mktemp("clone") / "beft"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    save_base(folder / "my-model", build_tiny("bert"))
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    for section, values in CHANGES.items():
        settings[section] |= values
    settings["datasets"] = {"rotten_tomatoes": settings["datasets"]["rotten_tomatoes"] | {"size": 60, "max_length": 16}}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    run(folder, "git", "add", "params.yaml", "my-model")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit what git knows."""
    identity = ("-c", "user.name=a user", "-c", "user.email=user@example.org")
    run(folder, "git", *identity, "commit", "-q", "-a", "-m", "mine")


def run(folder: Path, *command: str) -> str:
    """Run a command as in the activated environment, in the clone and on the clone's source; its stdout."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "PREFECT_HOME": str(folder / ".prefect"),
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_dvc_runs_every_stage_once(clone: Path) -> None:
    run(clone, "dvc", "repro")
    for made in ("data/raw", "data/prepared", "artifacts/train"):
        assert list((clone / made / "rotten_tomatoes").iterdir()), made
    assert read_json(clone / "artifacts/train/rotten_tomatoes/train.json")["steps"] > 0
    assert (clone / "artifacts/report/report.html").is_file()
    lock = (clone / "dvc.lock").read_bytes()
    again = run(clone, "dvc", "repro")
    assert re.findall(r"Running stage '(\w+)", again) == ["base"]  # which looks at the base's files
    assert (clone / "dvc.lock").read_bytes() == lock
    assert run(clone, "git", "status", "--porcelain").split() == ["M", "dvc.lock"]
    commit(clone)


def test_dvc_compares_an_experiment(clone: Path) -> None:
    """Another setting runs what depends on it, here up to the training; it changes a few numbers and a curve."""
    said = run(clone, "dvc", "exp", "run", "-S", "train.learning_rate=0.02", "train@rotten_tomatoes")
    assert re.findall(r"Running stage '(\w+)", said) == ["base", "train"]
    changes = json.loads(run(clone, "dvc", "metrics", "diff", "--json"))
    assert list(changes) == ["artifacts/train/rotten_tomatoes/metrics.json"]
    [numbers] = changes.values()
    assert "train_loss" in numbers and len(numbers) <= 5
    rows = list(csv.DictReader(io.StringIO(run(clone, "dvc", "exp", "show", "--csv"))))
    assert all(rows[0][name] for name in ("test.accuracy", "dev_accuracy", "train_loss"))
    assert "0.02" in {row["train.learning_rate"] for row in rows}
    run(clone, "dvc", "plots", "diff")
    page = (clone / "dvc_plots" / "index.html").read_text()
    assert "the target term of rotten_tomatoes on dev" in page
    assert {path.suffix for path in (clone / "dvc_plots" / "static").iterdir()} == {".png"}
    binaries = {".png", ".safetensors", ".parquet"}
    new = run(clone, "git", "ls-files", "artifacts", "data", "dvc_plots").splitlines()
    assert not [name for name in new if Path(name).suffix in binaries]


def test_the_flow_runs_on_a_model_of_ones_own(clone: Path, tmp_path: Path) -> None:
    """In an empty workspace of its own, with its own DVC cache and Prefect home, it trains the same adapter as DVC."""
    by_dvc = clone / "artifacts" / "train" / "rotten_tomatoes"
    run(clone, "git", "checkout", "-q", ".")
    run(clone, "dvc", "checkout", "--force", "train@rotten_tomatoes")
    other = tmp_path / "beft"
    run(clone, "git", "clone", "-q", "--no-hardlinks", str(clone), str(other))
    assert not (other / ".dvc" / "cache").exists() and not (other / "artifacts").exists()
    clone = other
    said = run(clone, sys.executable, "-m", "flows.cli", "run", "--set", "base.source=./my-model")
    record = read_json(clone / "runs" / "latest" / "run.json")
    assert record["status"] == "FINISHED"
    assert "make ui" in said
    by_flow = clone / record["steps"]["train/rotten_tomatoes"]["folder"]
    for folder in (by_dvc, by_flow):  # neither took it from anywhere
        assert read_json(folder / "cost.json")["steps_here"] == read_json(folder / "train.json")["steps"] > 0
    adapters = [{path.name: path.read_bytes() for path in (of / "adapter").iterdir()} for of in (by_dvc, by_flow)]
    assert adapters[0] == adapters[1]
    assert run(clone, "git", "status", "--porcelain") == ""
