"""A run of the main job inside a flow run of Prefect, which runs every step as a task."""

from collections.abc import Sequence
from typing import Any

from prefect.futures import PrefectFuture

from flows.runs.adapt_run import AdaptRun, DataStep
from flows.runs.flow_run_name import flow_run_id
from flows.runs.prefect_task import EVENTS_OF_RUN
from flows.runs.steps import run_dvc_through_prefect, run_in_this_thread, run_through_prefect
from flows.runs.tracked_run import Done
from tasks.engine.store import StepRun
from tasks.engine.workspace import Workspace
from tasks.settings import PipelineSettings
from tasks.versioning import dvc as versioning


class PrefectRun(AdaptRun):
    """A run that belongs to the flow run that is going on."""

    def __init__(self, settings: PipelineSettings, workspace: Workspace) -> None:
        super().__init__(settings, workspace, flow_run_id())

    def start(self) -> None:
        """Open it, and have its steps tell it how far they are."""
        super().start()
        EVENTS_OF_RUN.set(self.live.listen)

    def run(self, call: StepRun, after: Sequence[Done]) -> Done:
        """Hand one step to the task runner, and wait for it."""
        return run_through_prefect(
            call.step, self.settings, call.inputs, self.root, call.dataset, after=_futures(after)
        )

    def run_here(self, call: StepRun, after: Sequence[Done]) -> Done:
        """Run one step where the flow itself runs."""
        return run_in_this_thread(call, _futures(after))

    def make_by_dvc(self, step: DataStep, datasets: Sequence[str], *, force: bool = False) -> None:
        """Bring the data up to date in a task of its own."""
        if force:
            run_dvc_through_prefect(step, versioning.force_fetch, self.root, datasets)
        else:
            stages = [f"{step}@{dataset}" for dataset in datasets]
            run_dvc_through_prefect(step, versioning.reproduce, self.root, stages)

    def push(self, stages: Sequence[str]) -> None:
        """Copy the outputs in a task of its own."""
        run_dvc_through_prefect("version", versioning.push, self.root, stages, self.settings.versioning.remote)


def _futures(after: Sequence[Done]) -> list[PrefectFuture[Any]]:
    """What Prefect draws as the tasks before a task."""
    return [done.future for done in after if done.future is not None]
