"""One step through Prefect: submitted, awaited, and read from the folder that it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture, PrefectWrappedFuture

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


@dataclass(frozen=True)
class Submitted:
    """A step that was handed to the task runner."""

    call: Call
    future: PrefectWrappedFuture[Any, Any]

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not; asks no server."""
        return bool(self.future.wrapped_future.done())

    def done(self) -> Done:
        """Wait for it.

        Raises:
            InputError: The user's input is wrong.
            BeftError: The step failed.
        """
        fingerprint = str(self.future.result()["fingerprint"])
        folder = self.call.folder(fingerprint)
        # Prefect's cached result may come from another workspace; the folder is this one's.
        record = StepRecord.model_validate(read_json(folder / RECORD))
        return Done(record, folder, self.future, self.future.state.name in _REUSED)


def submit(
    step: Step,
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    root: Path,
    dataset: str | None = None,
    *,
    extra: Mapping[str, Any] | None = None,
    after: Sequence[PrefectFuture[Any]] = (),
) -> Submitted:
    """Hand one step to the task runner, which runs it or reuses it.

    Args:
        extra: Further keywords of its function.
        after: What it waits for, so that Prefect draws the dependence.
    """
    future = step.task.submit(
        settings=settings.model_dump(mode="json"),
        inputs={name: str(folder) for name, folder in inputs.items()},
        root=str(root),
        dataset=dataset,
        extra=dict(extra or {}),
        wait_for=list(after),
    )
    assert isinstance(future, PrefectWrappedFuture)  # those of threads and of Dask are
    return Submitted(Call(step, settings, {}, root, dataset), future)


def run_through_prefect(
    step: Step, settings: PipelineSettings, inputs: Mapping[str, Path], root: Path, dataset: str | None = None
) -> Done:
    """Run one step, or reuse it, and wait for it.

    Raises:
        InputError: The user's input is wrong.
        BeftError: The step failed.
    """
    return submit(step, settings, inputs, root, dataset).done()
