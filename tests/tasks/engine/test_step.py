"""A finished step is used again exactly as long as nothing that it depends on or wrote has changed."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beft.errors import BeftError
from beft.files import read_json, sha256_file, write_json, write_text
from tasks.engine.execution import run_step
from tasks.engine.store import StepRecord, StepRun, verified
from tasks.pipeline import find_step
from tasks.settings import PipelineSettings
from tests.conftest import build_tiny
from tests.support.small_data import small_workspace
from tests.support.small_steps import count_step, double_step, meddle_step, train_on_step
from tests.support.tiny_bases import save_base


@pytest.fixture
def call(tmp_path: Path) -> StepRun:
    """Count the words of a text with three of them."""
    raw = tmp_path / "raw"
    write_text(raw / "text.txt", "one two three")
    return StepRun(count_step, PipelineSettings(), {"raw": raw}, tmp_path, "rotten_tomatoes")


def test_a_step_is_run_once_and_then_reused(call: StepRun) -> None:
    first = run_step(call)
    second = run_step(call)
    assert not first.reused and second.reused
    assert first.record == second.record and first.folder == second.folder
    assert first.record.summary == {"words": 3}
    assert (first.folder / "words.txt").read_text() == "3\n"


def test_the_record_names_every_output_with_its_hash(call: StepRun) -> None:
    done = run_step(call)
    stored = StepRecord.model_validate(read_json(done.folder / "step.json"))
    assert stored == done.record
    assert stored.outputs == {
        name: sha256_file(done.folder / name) for name in ("words.txt", "more/facts.json", "cost.json")
    }
    assert stored.key == "count/rotten_tomatoes"
    assert stored.fingerprint.startswith(done.folder.name.rpartition("-")[2])


def test_the_folder_stands_below_runs(call: StepRun, tmp_path: Path) -> None:
    assert run_step(call).folder.parent == tmp_path / "runs" / "steps"
    assert [path.name for path in (tmp_path / "runs" / "steps").iterdir()] == [run_step(call).folder.name]


@pytest.mark.parametrize("damage", ["delete", "change", "record", "no record", "foreign record", "all"])
def test_a_damaged_result_is_made_again(call: StepRun, damage: str) -> None:
    folder = run_step(call).folder
    if damage == "delete":
        (folder / "more" / "facts.json").unlink()
    elif damage == "change":
        write_text(folder / "words.txt", "4\n")
    elif damage == "record":
        write_text(folder / "step.json", "{")
    elif damage == "no record":
        (folder / "step.json").unlink()
    elif damage == "foreign record":
        write_json(folder / "step.json", read_json(folder / "step.json") | {"fingerprint": "0" * 64})
    else:
        shutil.rmtree(folder)
    again = run_step(call)
    assert not again.reused
    assert (again.folder / "words.txt").read_text() == "3\n"
    assert verified(again.folder, again.record.fingerprint) == again.record
    assert run_step(call).reused


def test_a_new_time_of_a_file_changes_nothing(call: StepRun) -> None:
    folder = run_step(call).folder
    for path in (call.inputs["raw"] / "text.txt", folder / "words.txt"):
        os.utime(path, (1, 1))
    assert run_step(call).reused


def test_what_a_step_took_is_no_reason_to_run_the_next_one(call: StepRun, tmp_path: Path) -> None:
    """A step made again has other seconds in cost.json; what reads it has the same fingerprint."""
    folder = run_step(call).folder
    below = replace(call, step=double_step, inputs={"count": folder})
    before = below.fingerprint()
    cost = (folder / "cost.json").read_bytes()
    shutil.rmtree(folder)
    run_step(call)
    assert (folder / "cost.json").read_bytes() != cost
    assert below.fingerprint() == before


def test_a_failed_step_leaves_nothing(call: StepRun, tmp_path: Path) -> None:
    with pytest.raises(BeftError, match="missing"):
        run_step(replace(call, inputs={"raw": tmp_path / "missing"}))
    assert not list((tmp_path / "runs" / "steps").iterdir())


def test_a_full_disk_is_said_in_one_line(call: StepRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device", "weights")

    monkeypatch.setattr("tests.support.small_steps.write_text", full)
    with pytest.raises(BeftError, match=r"^count/rotten_tomatoes: No space left on device: weights$"):
        run_step(call)


def test_an_input_that_changes_meanwhile_is_an_error(call: StepRun, tmp_path: Path) -> None:
    with pytest.raises(BeftError, match="changed while it ran"):
        run_step(replace(call, step=meddle_step))
    assert not list((tmp_path / "runs" / "steps").iterdir())


def test_effects_outside_the_folder_are_asked_for(call: StepRun, tmp_path: Path) -> None:
    """A register step whose database was deleted runs again."""
    asked: list[tuple[Path, Path]] = []

    def effects_still_valid(_settings: PipelineSettings, folder: Path, *, root: Path) -> bool:
        asked.append((folder, root))
        return len(asked) > 1

    with_effects = replace(call, step=replace(count_step, effects_still_valid=effects_still_valid))
    assert not run_step(with_effects).reused
    assert not run_step(with_effects).reused
    assert run_step(with_effects).reused
    assert asked == [(run_step(call).folder, tmp_path)] * 2


def test_checkpoints_survive_a_failure_and_go_at_the_end(call: StepRun, tmp_path: Path) -> None:
    trained = replace(call, step=train_on_step, inputs={})
    with pytest.raises(BeftError, match="interrupted"):
        run_step(trained)
    kept = tmp_path / "runs" / "checkpoints"
    assert [path.name for path in next(kept.iterdir()).iterdir()] == ["1"]
    assert run_step(trained).record.summary == {"attempts": 2}
    assert not list(kept.iterdir())


def test_checkpoints_of_a_run_that_died_when_its_step_had_just_finished_go_with_the_next(call: StepRun) -> None:
    left = call.checkpoints(run_step(call).record.fingerprint)
    write_text(left / "pass.safetensors", "large")
    assert run_step(call).reused
    assert not left.exists()


def test_the_data_steps_work_in_the_folder_of_the_workspace_wherever_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = small_workspace(tmp_path / "workspace", {"base": {"source": "./base", "threads": 1, "device": "cpu"}})
    save_base(root / "base", build_tiny("bert"), pooling="mean")
    settings = PipelineSettings.read(root / "params.yaml")
    done: dict[str, Path] = {}
    for name in ("fetch", "validate_raw", "prepare", "validate"):
        step = find_step(name)
        inputs = {one: done[one] for one in step.reads}
        done[name] = run_step(StepRun(step, settings, inputs, root, "mine")).folder
    assert StepRun(find_step("probe"), settings, {"prepare": done["prepare"]}, root, "mine").fingerprint()
    assert not list((tmp_path / "elsewhere").iterdir())
