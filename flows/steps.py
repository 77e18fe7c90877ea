"""One step through Prefect: submitted, awaited, and read from the folder that it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture

from beft.files import read_json
from tasks.prefect_task import REUSED
from tasks.settings import PipelineSettings
from tasks.step import RECORD, Call, Step, StepRecord

_REUSED = {REUSED, "Cached"}


@dataclass(frozen=True)
class Done:
    """A finished step: its record, its folder, its future, and whether it was there already."""

    record: StepRecord
    folder: Path
    future: PrefectFuture[Any]
    reused: bool


def run_through_prefect(
    step: Step,
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    root: Path,
    dataset: str | None = None,
    *,
    extra: Mapping[str, Any] | None = None,
    after: Sequence[PrefectFuture[Any]] = (),
) -> Done:
    """Run one step, or reuse it.

    Args:
        extra: Further keywords of its function.
        after: What it waits for, so that Prefect draws the dependence.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed.
    """
    future = step.task.submit(
        settings=settings.model_dump(mode="json"),
        inputs={name: str(folder) for name, folder in inputs.items()},
        root=str(root),
        dataset=dataset,
        extra=dict(extra or {}),
        wait_for=list(after),
    )
    fingerprint = str(future.result()["fingerprint"])
    folder = Call(step, settings, {}, root, dataset).folder(fingerprint)
    # Prefect's cached result may come from another workspace; the folder is this one's.
    record = StepRecord.model_validate(read_json(folder / RECORD))
    return Done(record, folder, future, future.state.name in _REUSED)
