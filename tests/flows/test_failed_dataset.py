"""A dataset whose data DVC cannot make ends its own chain alone."""

from pathlib import Path

import pytest
import yaml

from beft.errors import InputError
from beft.files import write_text
from flows.runs.prefect_run import PrefectRun
from flows.runs.task_runner import CONFIGURED
from tasks.engine.workspace import Workspace
from tasks.settings import PipelineSettings
from tests.support.dvc_workspace import DATA_STAGES, PROJECT
from tests.support.small_data import DESCRIPTION, SETTINGS, small_workspace


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of DVC with the datasets ``broken``, whose file is missing, and ``mine``; the current one."""
    monkeypatch.chdir(tmp_path)
    kept = SETTINGS["datasets"]["mine"]
    small_workspace(tmp_path, {"datasets": {"broken": kept, "mine": kept}})
    broken = DESCRIPTION | {"source": {"kind": "files", "train": "data/files/broken.csv"}}
    write_text(tmp_path / "data" / "datasets" / "broken.yaml", yaml.safe_dump(broken))
    stages = {name: {"foreach": "${datasets}", "do": stage} for name, stage in DATA_STAGES.items()}
    write_text(tmp_path / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write_text(tmp_path / ".dvc" / "config", (PROJECT / ".dvc" / "config").read_text())
    return tmp_path


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("fails", ["fetch", "prepare"])
def test_the_other_datasets_are_made(root: Path, fails: str) -> None:
    from prefect import flow

    if fails == "prepare":
        write_text(root / "data" / "files" / "broken.csv", "review,verdict\na warm film,good\n")
    settings = PipelineSettings.read(root / "params.yaml", {"versioning.push": True})

    @flow(task_runner=CONFIGURED)
    def data_steps() -> PrefectRun:
        run = PrefectRun(settings, Workspace(root))
        prepared = run.prepare(run.fetch())
        assert list(prepared) == ["mine"] and prepared["mine"].record.outputs
        return run

    run = data_steps()
    assert list(run.failures) == ["broken"]
    with pytest.raises(InputError, match=r"broken"):
        run.raise_failure()
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    assert {"fetch@mine", "prepare@mine"} <= set(stages) and "prepare@broken" not in stages
    assert (root / ".dvc-remote").is_dir()
