"""One step through Prefect: submitted, awaited, and read from the folder that it left."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from prefect.futures import PrefectFuture

from beft.errors import BeftError
from flows.runs.prefect_task import REUSED, dvc_task, prefect_task
from flows.runs.tracked_run import Done
from tasks.engine.declaration import Step
from tasks.engine.store import StepRecord, StepRun
from tasks.engine.supervisor import STOPPING
from tasks.environment import carried_to_workers
from tasks.settings import PipelineSettings

_submitting = Lock()  # chains submit at the same time, and Prefect counts the runs of a task without a lock


def _done(
    call: StepRun, result: Mapping[str, Any], state: str | None, future: PrefectFuture[Any] | None = None
) -> Done:
    record = StepRecord.model_validate(result)
    return Done(record, call.folder(record.fingerprint), future, reused=state == REUSED)


def run_through_prefect(
    step: Step,
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    root: Path,
    dataset: str | None = None,
    *,
    after: Sequence[PrefectFuture[Any]] = (),
) -> Done:
    """Hand one step to the task runner, which runs it or reuses it, and wait for it.

    Args:
        after: What it waits for, so that Prefect draws the dependence.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed, or the run was stopped.
    """
    call = StepRun(step, settings, inputs, root, dataset)
    if STOPPING.is_set():
        raise BeftError(f"{call.key}: stopped; run it again to resume")
    with _submitting:
        future = prefect_task(step).submit(**_parameters(call), wait_for=list(after))
    return _done(call, future.result(), future.state.name, future)


def run_in_this_thread(call: StepRun, after: Sequence[PrefectFuture[Any]] = ()) -> Done:
    """Run one step, or reuse it, where the flow itself runs: Ctrl-C reaches it there, whatever it waits for.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed.
    """
    state = prefect_task(call.step)(**_parameters(call), wait_for=list(after), return_state=True)
    return _done(call, state.result(), state.name)


def run_dvc_through_prefect(name: str, function: Callable[..., None], *arguments: object) -> None:
    """Have the task runner call a function that has DVC do its work, and wait for it.

    Raises:
        InputError: The user's input is wrong.
        BeftError: DVC failed.
    """
    with _submitting:
        future = dvc_task(name, function).submit(*arguments)
    future.result()


def _parameters(call: StepRun) -> dict[str, Any]:
    """The plain values that the step's Prefect task takes."""
    return {
        "settings": call.settings.model_dump(mode="json"),
        "inputs": {name: str(folder) for name, folder in call.inputs.items()},
        "root": str(call.root),
        "dataset": call.dataset,
        "extra": dict(call.extra or {}),
        "environment": carried_to_workers(),
    }
