"""The Prefect task made of a step: cached by the step's fingerprint, its result a JSON record."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from beft.errors import BeftError
from flows.runs.artifacts import artifact_key, leave
from flows.runs.training_progress import TrainingProgress
from tasks.engine.declaration import Step
from tasks.engine.execution import run_step
from tasks.engine.isolated_step import LISTENER
from tasks.engine.store import Call, Finished
from tasks.engine.transient import is_transient
from tasks.environment import adopt
from tasks.settings import PipelineSettings

REUSED = "Reused"
"""The name of the (completed) state of a task whose step was found finished."""


@cache
def prefect_task(step: Step) -> Task[..., Any]:
    """Make the task. It takes plain values, so that any task runner can carry them, and returns the step's record."""

    def run(
        settings: dict[str, Any],
        inputs: dict[str, str],
        root: str,
        dataset: str | None = None,
        extra: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Any:
        finished = _run_shown(_call(step, settings, inputs, root, dataset, extra, environment))
        record = finished.record.model_dump(mode="json")
        if finished.reused:
            message = f"finished {finished.record.finished}, {finished.record.seconds:.1f} s saved"
            return Completed(name=REUSED, message=message, data=record)
        return record

    def cache_key(_context: Any, parameters: dict[str, Any]) -> str | None:
        """The fingerprint while the finished folder is whole: Prefect alone would serve results without their files."""
        try:
            call = _call(step, **parameters)
            fingerprint = call.fingerprint()
            return fingerprint if call.finished(fingerprint) else None
        except BeftError:
            return None  # the task itself meets the same error, and says so

    return Task(
        fn=run,
        name=step.name,
        description=step.function.__doc__,
        task_run_name=f"{step.name} {{dataset}}" if step.per_dataset else step.name,
        tags=set(step.tags),
        retries=step.retries,
        retry_delay_seconds=[2.0 * 3**attempt for attempt in range(step.retries)] or None,
        retry_jitter_factor=0.5 if step.retries else None,
        retry_condition_fn=_is_transient,
        cache_key_fn=cache_key,
        persist_result=True,
        result_serializer="json",
    )


def _run_shown(call: Call) -> Finished:
    """Run a step, and show how far it is and what came of it. (Dask carries what this names by name alone.)"""
    listening = LISTENER.set(TrainingProgress(f"{artifact_key(call.key)}-progress", call.key))
    try:
        finished = run_step(call)
    finally:
        LISTENER.reset(listening)
    leave(finished.record, finished.folder)
    return finished


def _call(
    step: Step,
    settings: dict[str, Any],
    inputs: Mapping[str, str],
    root: str,
    dataset: str | None,
    extra: dict[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Call:
    adopt(environment or {})
    folders = {name: Path(path) for name, path in inputs.items()}
    return Call(step, PipelineSettings.from_mapping(settings), folders, Path(root), dataset, extra)


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a task failed by a network that may answer the next time."""
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return is_transient(error if isinstance(error, BaseException) else None)


def dvc_task(name: str, function: Callable[..., Any]) -> Task[..., Any]:
    """A task that has DVC do its work; whether there is any is for DVC to know, so Prefect never caches it."""
    return Task(fn=function, name=name, task_run_name=f"{name} (dvc)", cache_policy=NO_CACHE, persist_result=False)
