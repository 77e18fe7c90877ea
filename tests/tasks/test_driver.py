"""``python -m tasks STEP``: what DVC's stages call."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from beft.errors import InputError
from beft.files import read_json, sha256_tree, write_text
from tasks.__main__ import main, run
from tasks.engine.execution import run_step
from tasks.engine.store import StepRun
from tasks.pipeline import OVER_ALL, STEPS, dvc_folder, find_step, input_keys
from tasks.settings import PipelineSettings
from tests.support.small_data import small_workspace

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_workspace(tmp_path)


def test_it_starts_no_prefect_and_no_mlflow(root: Path) -> None:
    program = (
        "import json, sys\n"
        "from tasks.__main__ import main\n"
        "from tasks.pipeline import STEPS, find_step\n"
        "status = [main([step, '--dataset', 'mine']) for step in ('fetch', 'prepare')]\n"
        "declared = [find_step(name) for name in STEPS if name != 'register']\n"
        "sys.stdout.write(json.dumps([status, sorted({name.split('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    status, modules = json.loads(done.stdout)
    assert status == [0, 0]
    assert "beft" in modules
    assert not {"prefect", "mlflow", "dvc", "flows"} & set(modules)
    assert (root / "data" / "raw" / "mine" / "train" / "mine.csv").is_file()
    assert (root / "data" / "prepared" / "mine" / "train.parquet").is_file()


def test_both_drivers_write_the_same_bytes(root: Path) -> None:
    settings = PipelineSettings.read(root / "params.yaml")
    for name in ("fetch", "prepare"):
        run(name, "mine", root)
        inputs = {"fetch": root / "data" / "raw" / "mine"} if name == "prepare" else {}
        done = run_step(StepRun(find_step(name), settings, inputs, root, "mine"))
        (done.folder / "step.json").unlink()
        assert sha256_tree(done.folder) == sha256_tree(root / dvc_folder(f"{name}/mine"))


def test_it_leaves_what_stood_there_when_it_fails(root: Path) -> None:
    run("fetch", "mine", root)
    run("prepare", "mine", root)
    before = sha256_tree(root / "data" / "prepared")
    write_text(root / "data" / "raw" / "mine" / "train" / "mine.csv", "review\n")
    with pytest.raises(InputError):
        run("prepare", "mine", root)
    assert sha256_tree(root / "data" / "prepared") == before
    assert [path.name for path in (root / "data" / "prepared").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "--dataset", "mine"], "Did you mean 'train'"),
        (["train"], "add --dataset with one of mine"),
        (["fetch", "--dataset", "mien"], "Did you mean 'mine'"),
        (["merge", "--dataset", "mine"], "leave --dataset out"),
        (["register"], "beft run"),
        (["prepare", "--dataset", "mine"], "reads data/raw/mine, which is not there yet; this makes it: "),
    ],
)
def test_wrong_input_ends_with_two_and_one_message(
    arguments: list[str], message: str, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.__main__.log_lines", lambda: None)  # it would take the log away from pytest
    monkeypatch.setenv("BEFT_ERROR_FILE", str(root / "error.json"))
    assert main(arguments) == 2
    assert message in caplog.text
    assert message in read_json(root / "error.json")["error"]
    assert not (root / "artifacts").exists()


def test_a_missing_settings_file_is_said(root: Path) -> None:
    (root / "params.yaml").unlink()
    with pytest.raises(InputError, match=r"no settings at .*params\.yaml"):
        run("fetch", "mine", root)


def test_every_step_declares_itself_in_its_own_module() -> None:
    for name in STEPS:
        step = find_step(name)
        assert step.name == name
        assert step.per_dataset == (name not in OVER_ALL)
        assert set(step.reads) <= set(STEPS[: STEPS.index(name)])


def test_inputs_of_a_step_over_all_datasets_are_named_by_dataset() -> None:
    settings = PipelineSettings.from_mapping({"datasets": {"imdb": {}, "sst2": {}}})
    found = input_keys(find_step("register"), settings, None)
    assert {"train/imdb", "train/sst2", "merge", "report"} <= set(found)
    assert input_keys(find_step("prepare"), settings, "imdb") == {"fetch": "fetch/imdb"}


def test_the_projects_own_settings_are_valid() -> None:
    """params.yaml is written out in full, so that DVC finds every setting that a stage watches."""
    settings = PipelineSettings.read(PROJECT / "params.yaml")
    written = yaml.safe_load((PROJECT / "params.yaml").read_text())
    assert written["base"].pop("threads") == "auto"
    assert written["deployment"].pop("webhook") is settings.deployment.webhook is None  # it is shown nowhere
    assert written == settings.model_dump(mode="json", exclude={"base": {"threads"}})
