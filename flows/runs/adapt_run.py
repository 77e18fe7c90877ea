"""One run of the main job: its data, its steps, its record, its MLflow run."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from beft.commands import own_command
from beft.errors import BeftError, InputError
from beft.files import copy_file
from flows.runs.chains import Result, width
from flows.runs.live_tracking import LiveTracking
from flows.runs.tracked_run import Done, TrackedRun
from tasks.engine.declaration import step_key
from tasks.engine.store import StepRecord, StepRun
from tasks.engine.workspace import Workspace
from tasks.pipeline import dvc_folder, find_step, input_keys
from tasks.registry.aliases import CHAMPION, aliases_of
from tasks.registry.gate import GateDecisions
from tasks.run_metadata import check_settings, facts_of_training, run_facts, run_fingerprint
from tasks.settings import PipelineSettings
from tasks.tracking import runs as tracking
from tasks.tracking.connection import connect, retry_broken_response, translate_errors
from tasks.versioning import dvc as versioning
from tasks.versioning.data import changed_sources, datasets_of_dvc
from tasks.versioning.dvc import DataVersion

DataStep = Literal["fetch", "prepare"]
"""A step that DVC does, where it holds the data."""

logger = logging.getLogger(__name__)


class AdaptRun(TrackedRun):
    """A run that is going on: each method does a part of it and gives the finished steps, which the next parts read.

    What runs a step, and DVC, is for the class below this one: Prefect (``PrefectRun``), or nothing at all where every
    step is finished already (``ReusedRun``).
    """

    def __init__(self, settings: PipelineSettings, workspace: Workspace, flow_run: str | None = None) -> None:
        super().__init__(settings, workspace, flow_run, datasets=list(settings.datasets))
        self.of_dvc = datasets_of_dvc(settings, self.root)
        self.live = LiveTracking(settings, self.root, self.post)
        self._finished: list[Done] = []
        self.failures: dict[str, Exception] = {}
        """Dataset to the error that ended its chain, in the order of their time."""

    @abstractmethod
    def run(self, call: StepRun, after: Sequence[Done]) -> Done:
        """Run one step, or reuse it, and wait for it.

        Args:
            after: What is finished before it.

        Raises:
            InputError: The user's input is wrong.
            BeftError: The step failed, or the run was stopped.
        """

    @abstractmethod
    def run_here(self, call: StepRun, after: Sequence[Done]) -> Done:
        """Run one step likewise, in the thread that goes through the run: Ctrl-C reaches it, whatever it waits for."""

    @abstractmethod
    def make_by_dvc(self, step: DataStep, datasets: Sequence[str], *, force: bool = False) -> None:
        """Have DVC bring the data of datasets up to date.

        Args:
            force: Make it although DVC takes it as up to date.

        Raises:
            InputError: The user's input is wrong.
            BeftError: DVC failed.
        """

    @abstractmethod
    def push(self, stages: Sequence[str]) -> None:
        """Copy the outputs of DVC's stages to the remote.

        Raises:
            BeftError: There is none, or it cannot be reached.
        """

    def start(self) -> None:
        """Open its folder and its MLflow run; one that was interrupted is continued in both.

        Raises:
            SettingsError: The settings cannot work.
            BeftError: MLflow cannot be reached, or keeps the run from registering what it trains.
        """
        self.name()
        check_settings(self.settings, self.root)
        self.record["facts"] |= run_facts(self.settings, {}, self.root)
        self.live.parent = self.open()
        GateDecisions(self.settings, self.root)  # what keeps it from taking a decision is known before the training

    def fingerprint(self) -> str:
        """Over the settings, the sources of code and data, and what it computes with."""
        return run_fingerprint(self.settings, self.root)

    def open_tracking(self) -> str:
        """The run that has this fingerprint, or a new one."""
        facts = self.record["facts"]
        return tracking.open_run(self.record["fingerprint"], self.settings, root=self.root, facts=facts)

    def close_tracking(self, status: Any, error: str | None) -> None:
        """End it; one that has finished also becomes ``runs/latest``."""
        assert self.parent is not None
        tracking.close_run(self.parent, status, self.settings, root=self.root, error=error)
        if status == "FINISHED":
            self.workspace.point_latest(self.record["fingerprint"])

    def fetch(self) -> dict[str, Done]:
        """Get the raw data of every dataset: through DVC where ``params.yaml`` asks for the same, else as a step."""
        return self._data("fetch", list(self.settings.datasets), {})

    def prepare(self, raw: Mapping[str, Done], after: Mapping[str, Done] | None = None) -> dict[str, Done]:
        """Prepare the raw data of datasets likewise, and push the versions that DVC holds.

        Args:
            after: Those of ``raw`` for which this is finished are prepared; None: all.
        """
        datasets = [name for name in raw if after is None or name in after]
        prepared = self._data("prepare", datasets, raw)
        of_dvc = [name for name in prepared if name in self.of_dvc]
        if of_dvc and self.settings.versioning.push:
            self.push([*data_stages(of_dvc), *versioning.reproduced_stages(self.root)])
        if self.parent is not None:
            data = self._data_versions(prepared)
            self.record["facts"] |= run_facts(self.settings, data, self.root)
            tracking.log_data(self.parent, self.settings, root=self.root, facts=self.record["facts"])
            self.write()
        return prepared

    def _data(self, name: DataStep, datasets: Sequence[str], raw: Mapping[str, Done]) -> dict[str, Done]:
        of_dvc = [dataset for dataset in datasets if dataset in self.of_dvc]
        before = {dataset: versioning.stage_record(self.root, name, dataset) for dataset in of_dvc}
        made = False
        if of_dvc:
            try:
                self._bring_up_to_date(name, of_dvc)
                made = True
            except InputError as error:
                if len(datasets) == 1:
                    raise
                logger.warning("%s; now each dataset is made by itself", error)

        def make(dataset: str) -> Done:
            if dataset not in before:
                return self.step(name, *raw_of(raw, dataset), dataset=dataset)
            if not made:
                self._bring_up_to_date(name, [dataset])
            return self._made_by_dvc(name, dataset, before[dataset])

        return self.each(datasets, make)

    def _bring_up_to_date(self, name: DataStep, datasets: Sequence[str]) -> None:
        changed = changed_sources(self.root, datasets) if name == "fetch" else []
        if changed:
            self.make_by_dvc("fetch", changed, force=True)
        self.make_by_dvc(name, datasets)

    def _made_by_dvc(self, name: str, dataset: str, before: StepRecord | None) -> Done:
        folder = self.root / dvc_folder(step_key(name, dataset))
        record = versioning.stage_record(self.root, name, dataset)
        if record is None:
            why = own_command("dvc", "repro", f"{name}@{dataset}")
            raise BeftError(f"DVC made nothing at {folder}; this says why: {why}")
        done = Done(record, folder, None, reused=record == before)
        self.post(partial(self._keep, done))
        return done

    def _data_versions(self, prepared: Mapping[str, Done]) -> dict[str, DataVersion]:
        """The data of every dataset, as DVC or as steps made it."""
        of_dvc = [name for name in prepared if name in self.of_dvc]
        versions = versioning.data_versions(self.root, of_dvc) if of_dvc else {}
        return {
            name: versions.get(name) or DataVersion(name, self.folders[f"fetch/{name}"], done.folder)
            for name, done in prepared.items()
        }

    def each(self, datasets: Iterable[str], chain: Callable[[str], Result]) -> dict[str, Result]:
        """Run a chain of steps for every dataset, as many at once as can compute; the results of those that have one.

        A chain that fails stops no other: ``raise_failure`` raises its error.

        Raises:
            Exception: The first error, where every chain failed.
        """
        chains = {dataset: partial(chain, dataset) for dataset in datasets}
        results, failures = self.run_chains(chains, width(self.settings.base))
        self.failures |= failures
        if not results:
            self.raise_failure()
        return results

    def raise_failure(self) -> None:
        """Raise the first error of a chain, if there was one."""
        for error in self.failures.values():
            raise error

    def step(self, name: str, *reads: Done, after: Sequence[Done] = (), dataset: str | None = None) -> Done:
        """Run one step, or reuse it, and wait for it.

        Args:
            reads: The results that it reads, and perhaps others.
            after: What must be finished before it, though it reads nothing of it.
            dataset: None: that of what it reads, for a step that runs once a dataset.

        Raises:
            InputError: The user's input is wrong.
            BeftError: The step failed.
        """
        step = find_step(name)
        dataset = (dataset or reads[0].record.dataset) if step.per_dataset else None
        call = StepRun(step, self.settings, self._inputs(name, reads, dataset), self.root, dataset)
        try:
            done = self.run(call, [*reads, *after])
        except BeftError as error:
            self.post(partial(self.live.fail, name, dataset, str(error)))
            raise
        self.post(partial(self._keep, done))
        return done

    def _inputs(self, name: str, reads: Sequence[Done], dataset: str | None) -> dict[str, Any]:
        folders = {done.record.key: done.folder for done in reads}
        return {one: folders[key] for one, key in input_keys(find_step(name), self.settings, dataset).items()}

    def register(self, report: Done, results: Sequence[Done]) -> None:
        """Register what was trained; the report that says so is put into the run's folder first."""
        copy_file(report.folder / "report.html", self.root / self.record["run_folder"] / "report.html")
        self.record["report"] = f"{self.record['run_folder']}/report.html"
        trained = {done.record.dataset: done.record for done in results if done.record.step == "train"}
        facts = {name: facts_of_training(self.record["facts"], trained.get(name)) for name in self.settings.datasets}
        reads = [*results, report]
        extra = {"parent": self.parent, "facts": self.record["facts"], "trained": facts}
        inputs = self._inputs("register", reads, None)
        done = self.run_here(StepRun(find_step("register"), self.settings, inputs, self.root, extra=extra), reads)
        self._keep(done)
        self.record["models"] = _with_aliases(done.record.summary["models"], self.settings, self.root)

    def _keep(self, done: Done) -> None:
        self.live.end(done.record.key)
        self._finished.append(done)
        self.note(done.record.key, done)
        if self.parent is not None and self._log(done):
            for other in self._finished:  # runs were replaced, into which they had written as well
                self._log(other)

    def _log(self, done: Done) -> bool:
        assert self.parent is not None
        return tracking.log_step(self.parent, done.record, done.folder, self.settings, root=self.root)


def data_stages(datasets: Iterable[str]) -> list[str]:
    """DVC's stages that make the data of datasets."""
    return [f"{step}@{dataset}" for dataset in datasets for step in ("fetch", "prepare")]


@translate_errors
@retry_broken_response
def _with_aliases(models: Sequence[Mapping[str, Any]], settings: PipelineSettings, root: Path) -> list[dict[str, Any]]:
    """Registered versions with the aliases that they have now: a registration that is reused has those of its time."""
    connection = connect(settings, root)
    found = []
    for model in models:
        of_model = aliases_of(connection, model["name"])
        aliases = sorted(alias for alias, version in of_model.items() if version == model["version"])
        found.append({**model, "aliases": aliases, "champion": CHAMPION in aliases})
    return found


def raw_of(raw: Mapping[str, Done], dataset: str) -> tuple[Done, ...]:
    """The raw data that a step reads; ``fetch`` itself reads none."""
    return (raw[dataset],) if raw else ()
