"""What a run of the flow copies to a DVC remote: its data, and the stages after it that the user has reproduced."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.files import write_text
from flows.runs.prefect_run import PrefectRun
from flows.runs.task_runner import CONFIGURED
from tasks.engine.workspace import Workspace
from tasks.settings import PipelineSettings
from tasks.versioning.dvc import reproduce
from tests.support.dvc_workspace import DATA_STAGES, PROJECT, STAGE
from tests.support.small_data import small_workspace

STAGES: dict[str, Any] = {
    **DATA_STAGES,
    **{
        name: {
            "cmd": f"python stage.py artifacts/{name}/${{key}} {name}",
            "deps": ["data/prepared/${key}"],
            "outs": [f"artifacts/{name}/${{key}}"],
        }
        for name in ("score", "train", "evaluate")
    },
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which the user has reproduced score and train, and deleted what train gave; the current one."""
    monkeypatch.chdir(tmp_path)
    small_workspace(tmp_path)
    stages = {name: {"foreach": "${datasets}", "do": stage} for name, stage in STAGES.items()}
    write_text(tmp_path / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write_text(tmp_path / "stage.py", STAGE)
    write_text(tmp_path / ".dvc" / "config", (PROJECT / ".dvc" / "config").read_text())
    reproduce(tmp_path, ["score@mine", "train@mine"])
    shutil.rmtree(tmp_path / "artifacts" / "train")
    return tmp_path


def run_data_steps(root: Path, *, push: bool) -> None:
    """Fetch and prepare as the flow does."""
    from prefect import flow

    settings = PipelineSettings.read(root / "params.yaml", {"versioning.push": push})

    @flow(task_runner=CONFIGURED)
    def data_steps() -> None:
        run = PrefectRun(settings, Workspace(root))
        run.prepare(run.fetch())

    data_steps()


def in_remote(root: Path, md5: str) -> Path:
    return root / ".dvc-remote" / "files" / "md5" / md5[:2] / md5[2:]


def outputs(root: Path) -> dict[str, str]:
    """Stage -> the md5 of its output in ``dvc.lock``."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return {name: stage["outs"][0]["md5"] for name, stage in stages.items()}


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_the_data_and_what_was_reproduced_are_in_the_remote(root: Path) -> None:
    """Every file of every folder is there, with the bytes that its name stands for."""
    run_data_steps(root, push=True)
    found = outputs(root)
    assert set(found) == {f"{name}@mine" for name in ("fetch", "prepare", "score", "train")}
    for name, md5 in found.items():
        if name == "train@mine":  # nothing of it is in the workspace
            assert not in_remote(root, md5).exists()
            continue
        files = json.loads(in_remote(root, md5).read_text())
        assert files, name
        for file in files:
            kept = in_remote(root, file["md5"]).read_bytes()
            assert hashlib.md5(kept, usedforsecurity=False).hexdigest() == file["md5"], (name, file)
    [scored] = json.loads(in_remote(root, found["score@mine"]).read_text())
    assert (scored["relpath"], in_remote(root, scored["md5"]).read_text()) == ("rows.txt", "score")


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_without_versioning_push_nothing_leaves_the_workspace(root: Path) -> None:
    run_data_steps(root, push=False)
    assert not (root / ".dvc-remote").exists()
