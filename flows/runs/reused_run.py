"""A run of the main job whose steps are all finished already: it needs no Prefect."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows.runs.adapt_run import AdaptRun, DataStep, data_stages
from flows.runs.chains import Result
from flows.runs.run_status import UnfinishedStepError
from flows.runs.tracked_run import Done
from tasks.engine.execution import reuse_step
from tasks.engine.store import StepRun
from tasks.versioning import dvc as versioning


class ReusedRun(AdaptRun):
    """A run that makes nothing. It is recorded as every other.

    Its methods raise an ``UnfinishedStepError`` where something would have to be made: a run with Prefect then goes on
    with the same records.
    """

    def start(self) -> None:
        """Open it; DVC looks at the data meanwhile, in processes of its own."""
        with ThreadPoolExecutor(1) as thread:
            data = thread.submit(self._look_at_data)
            super().start()
        data.result()

    def _look_at_data(self) -> None:
        stages = data_stages(self.of_dvc)
        if not stages:
            return
        if not versioning.is_up_to_date(self.root, stages):
            raise UnfinishedStepError(" and ".join(stages))
        if self.settings.versioning.push:
            stages += versioning.reproduced_stages(self.root)
            versioning.push(self.root, stages, self.settings.versioning.remote)

    def run(self, call: StepRun, after: Sequence[Done]) -> Done:
        """Reuse one step."""
        found = reuse_step(call, call.fingerprint())
        if found is None:
            raise UnfinishedStepError(call.key)
        return Done(found.record, found.folder, None, reused=True)

    run_here = run

    def each(self, datasets: Iterable[str], chain: Callable[[str], Result]) -> dict[str, Result]:
        """Go through the chain of every dataset, one after the other: nothing is waited for."""
        return {dataset: chain(dataset) for dataset in datasets}

    def make_by_dvc(self, step: DataStep, datasets: Sequence[str], *, force: bool = False) -> None:
        """Leave it as it is: DVC has found it up to date when the run was opened."""
        if force:
            raise UnfinishedStepError(f"{step} of {', '.join(datasets)}")

    def push(self, stages: Sequence[str]) -> None:
        """Nothing: the remote has got what it lacked when the run was opened."""
