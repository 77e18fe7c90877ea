"""Steps as Prefect tasks, on a real temporary server: reused by fingerprint, run again when their files are gone."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beft.errors import BeftError, InputError
from beft.files import write_text
from flows.runs.prefect_task import prefect_task
from tasks.engine.declaration import JSON, Step
from tasks.engine.execution import run_step
from tasks.engine.store import StepRun
from tasks.settings import PipelineSettings
from tests.support.small_steps import count_step, double_step, refuse_step

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_text(tmp_path / "raw" / "text.txt", f"one two {tmp_path.name}")
    return tmp_path / "raw"


def states(root: Path, steps: list[tuple[Step, dict[str, str]]]) -> list[Any]:
    """Run steps one after the other in a flow; the final state of each task."""
    from prefect import flow

    @flow
    def small() -> list[Any]:
        found: list[Any] = []
        for step, inputs in steps:
            settings = PipelineSettings().model_dump(mode="json")
            future = prefect_task(step).submit(settings, inputs, str(root), None)
            future.wait()
            found.append(future.state)
        return found

    done: list[Any] = small(return_state=True).result(raise_on_failure=False)
    return done


def test_a_second_run_is_reused_and_gives_the_same_record(raw: Path, tmp_path: Path) -> None:
    count = (count_step, {"raw": str(raw)})
    first, second, third = (states(tmp_path, [count])[0] for _ in range(3))
    assert first.name == "Completed"
    assert [second.name, third.name] == ["Reused", "Reused"]
    assert first.result() == second.result() == third.result()
    assert first.result()["summary"] == {"words": 3}


@pytest.mark.parametrize("change", ["output", "input", "folder"])
def test_it_runs_again_when(change: str, raw: Path, tmp_path: Path) -> None:
    count = (count_step, {"raw": str(raw)})
    for _ in range(2):
        states(tmp_path, [count])
    folder = next((tmp_path / "runs" / "steps").iterdir())
    if change == "output":
        write_text(folder / "words.txt", "4")
    elif change == "folder":
        shutil.rmtree(folder)
    else:
        write_text(raw / "text.txt", "one two three four")
    again = states(tmp_path, [count])[0]
    assert again.name == "Completed"
    assert again.result()["summary"] == {"words": 4 if change == "input" else 3}
    assert states(tmp_path, [count])[0].name == "Reused"


def test_a_step_that_another_driver_finished_is_shown_as_reused(raw: Path, tmp_path: Path) -> None:
    run_step(StepRun(count_step, PipelineSettings(), {"raw": raw}, tmp_path))
    state = states(tmp_path, [(count_step, {"raw": str(raw)})])[0]
    assert state.name == "Reused" and state.is_completed()
    assert "saved" in state.message


def test_a_step_in_its_own_process_runs_below_a_task(raw: Path, tmp_path: Path) -> None:
    write_text(raw / "words.txt", "21")
    state = states(tmp_path, [(double_step, {"count": str(raw)})])[0]
    assert state.result()["summary"]["doubled"] == 42
    assert state.result()["summary"]["pid"] != os.getpid()


def test_an_error_reaches_the_caller_as_it_is(tmp_path: Path) -> None:
    state = states(tmp_path, [(refuse_step, {})])[0]
    assert state.is_failed()
    with pytest.raises(InputError, match=r"^column 'text' is missing; the file has: label$"):
        state.result()


class TestRetries:
    """A network that comes back is waited for; wrong input is not."""

    @staticmethod
    def attempts(error: BaseException, cause: BaseException | None, tmp_path: Path) -> int:
        tried: list[int] = []

        def fetch(
            settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
        ) -> dict[str, JSON]:
            tried.append(1)
            raise error from cause

        step = replace(Step(fetch), retries=1)
        prefect_task(step).retry_delay_seconds = 0
        state = states(tmp_path, [(step, {})])[0]
        assert state.is_failed()
        return len(tried)

    def test_of_what_is_transient(self, tmp_path: Path) -> None:
        assert self.attempts(BeftError("the hub does not answer"), ConnectionError("reset"), tmp_path) == 2

    def test_not_of_wrong_input(self, tmp_path: Path) -> None:
        assert self.attempts(InputError("unknown dataset"), None, tmp_path) == 1

    def test_not_of_a_full_disk(self, tmp_path: Path) -> None:
        assert self.attempts(OSError(28, "No space left on device"), None, tmp_path) == 1


def test_the_task_has_the_name_and_tags_of_the_step() -> None:
    tagged = replace(count_step, tags=("gpu",))
    assert prefect_task(tagged).name == "count"
    assert prefect_task(tagged).tags == {"gpu"}
    assert prefect_task(tagged).result_serializer == "json"
    assert prefect_task(tagged).persist_result is True
