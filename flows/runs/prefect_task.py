"""The Prefect task made of a step. The step store alone decides what is reused; the result is a JSON record."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.runs.artifacts import artifact_key, publish_artifacts
from flows.runs.training_progress import TrainingProgress
from tasks.engine.declaration import Step
from tasks.engine.execution import run_step
from tasks.engine.isolated_step import LISTENER, Event
from tasks.engine.store import Finished, StepRun
from tasks.engine.transient import is_transient
from tasks.environment import adopt
from tasks.settings import PipelineSettings

EVENTS_OF_RUN: ContextVar[Callable[[StepRun, Event], None] | None] = ContextVar("EVENTS_OF_RUN", default=None)
"""Takes the events of every step that runs in this process for a run of a flow; on a Dask cluster there is none."""

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
        cache_policy=NO_CACHE,
        persist_result=True,
        result_serializer="json",
    )


def _run_shown(call: StepRun) -> Finished:
    """Run a step, and show how far it is and what came of it. (Dask carries what this names by name alone.)"""
    progress, tell_flow = TrainingProgress(f"{artifact_key(call.key)}-progress", call.key), EVENTS_OF_RUN.get()

    def listen(event: Event) -> None:
        progress(event)
        if tell_flow is not None:
            tell_flow(call, event)

    listening = LISTENER.set(listen)
    try:
        finished = run_step(call)
    finally:
        LISTENER.reset(listening)
    publish_artifacts(finished.record, finished.folder)
    return finished


def _call(
    step: Step,
    settings: dict[str, Any],
    inputs: Mapping[str, str],
    root: str,
    dataset: str | None,
    extra: dict[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> StepRun:
    adopt(environment or {})
    folders = {name: Path(path) for name, path in inputs.items()}
    return StepRun(step, PipelineSettings.from_mapping(settings), folders, Path(root), dataset, extra)


def _is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a task failed by a network that may answer the next time."""
    error = state.data if isinstance(state.data, BaseException) else state.result(raise_on_failure=False)
    return is_transient(error if isinstance(error, BaseException) else None)


def dvc_task(name: str, function: Callable[..., Any]) -> Task[..., Any]:
    """A task that has DVC do its work; whether there is any is for DVC to know, so Prefect never caches it."""
    return Task(fn=function, name=name, task_run_name=f"{name} (dvc)", cache_policy=NO_CACHE, persist_result=False)
