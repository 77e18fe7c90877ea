"""A run of the main job whose steps are all finished already: it needs no Prefect."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from flows.runs.adapt_run import AdaptRun
from flows.runs.chains import Result
from flows.runs.done import Done
from flows.runs.run_status import UnfinishedStepError
from tasks.engine.execution import reuse_step
from tasks.engine.store import StepRun
from tasks.versioning import dvc as versioning


class ReusedRun(AdaptRun):
    """A run that makes nothing. It is recorded as every other.

    Its methods raise an ``UnfinishedStepError`` where something would have to be made: a run with Prefect then goes on
    with the same records.
    """

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

    def make_by_dvc(self, step: Literal["fetch", "prepare"], datasets: Sequence[str], *, force: bool = False) -> None:
        """See whether DVC would do nothing; what it says of ``fetch`` and ``prepare`` is asked once."""
        if force:
            raise UnfinishedStepError(f"{step} of {', '.join(datasets)}")
        if step == "fetch":
            stages = [f"{name}@{dataset}" for dataset in datasets for name in ("fetch", "prepare")]
            if not versioning.is_up_to_date(self.root, stages):
                raise UnfinishedStepError(" and ".join(stages))

    def push(self, stages: Sequence[str]) -> None:
        """Copy what the remote lacks."""
        versioning.push(self.root, stages, self.settings.versioning.remote)
