"""One run of the main flow: its steps in their folders, its record, its MLflow run."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run

from beft.commands import own_command
from beft.errors import BeftError
from beft.files import copy_file, write_text
from flows.runs.fan_out import width, windowed
from flows.runs.links import link_runs
from flows.runs.prefect_task import dvc_task
from flows.runs.run_status import closing, ending, now
from flows.runs.steps import Done, Submitted, run_in_this_thread, submit
from tasks.engine.declaration import step_key
from tasks.engine.provenance import code_facts
from tasks.engine.store import Call, StepRecord
from tasks.engine.workspace import Workspace
from tasks.pipeline import dvc_folder, find_step, input_keys
from tasks.registry.gate import GateDecisions
from tasks.run_metadata import facts_of_training, request_fingerprint, run_facts, run_fingerprint
from tasks.settings import PipelineSettings
from tasks.tracking import runs as tracking
from tasks.tracking.flat_settings import ELSEWHERE
from tasks.versioning import dvc as versioning
from tasks.versioning.data import changed_sources, datasets_of_dvc
from tasks.versioning.dvc import DataVersion

logger = logging.getLogger(__name__)


class Run:
    """A run that is going on: each method does the next part of it.

    Attributes:
        record: What ``run.json`` holds; a JSON object that grows with the run.
        folders: ``STEP/DATASET`` or ``STEP`` to the folder of that step's result.
    """

    def __init__(self, settings: PipelineSettings, workspace: Workspace) -> None:
        self.settings, self.workspace, self.root = settings, workspace, workspace.root
        self.of_dvc = datasets_of_dvc(settings, self.root)
        self.folders: dict[str, Path] = {}
        self.record: dict[str, Any] = {
            "status": "RUNNING",
            "started": now(),
            "prefect_flow_run": str(flow_run.id) if flow_run.id else None,
            "datasets": list(settings.datasets),
            "steps": {},
        }
        self._futures: dict[str, PrefectFuture[Any]] = {}
        self._finished: list[StepRecord] = []
        self._parent: str | None = None

    def fetch(self) -> None:
        """Get the raw data of every dataset: through DVC where ``params.yaml`` asks for the same, else as a step."""
        changed = changed_sources(self.root, self.of_dvc)
        if changed:
            self._by_dvc("fetch", versioning.fetch_again, changed)
        self._data("fetch")

    def prepare(self) -> None:
        """Prepare the data of every dataset likewise, and push the versions that DVC holds."""
        self._data("prepare")
        if self.of_dvc and self.settings.versioning.push:
            stages = [f"{step}@{dataset}" for dataset in self.of_dvc for step in ("fetch", "prepare")]
            self._by_dvc("version", versioning.push, stages, self.settings.versioning.remote)

    def _data(self, name: str) -> None:
        before = {dataset: versioning.stage_record(self.root, name, dataset) for dataset in self.of_dvc}
        if self.of_dvc:
            self._by_dvc(name, versioning.reproduce, [f"{name}@{dataset}" for dataset in self.of_dvc])
        for dataset in self.settings.datasets:
            if dataset not in self.of_dvc:
                self.step(name, dataset)
                continue
            key = step_key(name, dataset)
            self.folders[key] = self.root / dvc_folder(key)
            record = versioning.stage_record(self.root, name, dataset)
            if record is None:
                why = own_command("dvc", "repro", f"{name}@{dataset}")
                raise BeftError(f"DVC made nothing at {self.folders[key]}; this says why: {why}")
            self._note(record, reused=record == before[dataset])

    def _by_dvc(self, name: str, function: Any, *arguments: Any) -> None:
        dvc_task(name, function).submit(self.root, *arguments).result()

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Write the end of the run into its folder and into MLflow, whatever that is.

        A run that ends before ``identify`` is named by its settings and the source alone.
        """
        with ending(self._close):
            yield
        self.workspace.point_latest(self.record["fingerprint"])

    def identify(self) -> None:
        """Name the run by its fingerprint, now that its data is there, and keep it in MLflow and in its own folder.

        One that was interrupted is continued in both.
        """
        data = self._data_versions()
        self._name(run_fingerprint(self.settings, data), run_facts(self.settings, data, self.root))
        parent = self._open()
        GateDecisions(self.settings, self.root)  # what keeps it from taking a decision is known before the training
        page = self.record["mlflow_page"]
        link_runs(self.record["prefect_flow_run"], parent, page, self.settings, self.root)
        for record in self._finished:
            self._log(record)

    def _name(self, fingerprint: str, facts: dict[str, Any]) -> None:
        folder = self.workspace.run_folder(fingerprint)
        facts["run_folder"] = folder.relative_to(self.root).as_posix()
        self.record |= {"fingerprint": fingerprint, "run_folder": facts["run_folder"], "facts": facts}
        values = self.settings.model_dump(mode="json")
        write_text(folder / "params.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        self._write()

    def _open(self) -> str:
        """The id of the MLflow run, which is found or made."""
        if self._parent is None:
            facts = self.record["facts"]
            self._parent = tracking.open_run(self.record["fingerprint"], self.settings, root=self.root, facts=facts)
            self.record["mlflow_run"] = self._parent
            self.record["mlflow_page"] = tracking.page_of(self._parent, self.settings, root=self.root)
            self._write()
        return self._parent

    def _data_versions(self) -> dict[str, DataVersion]:
        """The data of every dataset, as DVC or as steps made it."""
        versions = versioning.data_versions(self.root, self.of_dvc) if self.of_dvc else {}
        for name in self.settings.datasets:
            if name not in versions:
                versions[name] = DataVersion(name, self.folders[f"fetch/{name}"], self.folders[f"prepare/{name}"])
        return versions

    def step(self, name: str, dataset: str | None = None, **extra: Any) -> StepRecord:
        """Run one step, or reuse it.

        Args:
            extra: Further keywords of its function.

        Raises:
            InputError: The user's input is wrong.
            BeftError: The step failed.
        """
        return self._finish(self._submit(name, dataset, extra))

    def step_of_each(self, name: str) -> None:
        """Run one step for every dataset, or reuse it: at once, as far as the machine has places to compute.

        Raises:
            InputError: The user's input is wrong.
            BeftError: The step failed for a dataset; what the others made is kept.
        """
        starts = [partial(self._submit, name, dataset, {}) for dataset in self.settings.datasets]
        failed: list[BeftError] = []
        for one in windowed(starts, width(self.settings.base)):
            try:
                self._finish(one)
            except BeftError as error:
                logger.error("%s", error)  # only the first is raised
                failed.append(error)
        if failed:
            raise failed[0]

    def _submit(self, name: str, dataset: str | None, extra: Mapping[str, Any]) -> Submitted:
        step = find_step(name)
        keys = input_keys(step, self.settings, dataset)
        return submit(
            step,
            self.settings,
            {name: self.folders[read] for name, read in keys.items()},
            self.root,
            dataset,
            extra=extra,
            after=[self._futures[read] for read in keys.values() if read in self._futures],
        )

    def _finish(self, submitted: Submitted) -> StepRecord:
        return self._keep(submitted.done())

    def _keep(self, done: Done) -> StepRecord:
        key = done.record.key
        self.folders[key] = done.folder
        if done.future is not None:
            self._futures[key] = done.future
        self._note(done.record, reused=done.reused)
        return done.record

    def register(self) -> None:
        """Register what was trained; the report that says so is put into the run's folder first."""
        copy_file(self.folders["report"] / "report.html", self.root / self.record["run_folder"] / "report.html")
        self.record["report"] = f"{self.record['run_folder']}/report.html"
        trained = {record.dataset: record for record in self._finished if record.step == "train"}
        facts = {name: facts_of_training(self.record["facts"], trained.get(name)) for name in self.settings.datasets}
        step = find_step("register")
        inputs = {name: self.folders[read] for name, read in input_keys(step, self.settings, None).items()}
        extra = {"parent": self._parent, "facts": self.record["facts"], "trained": facts}
        done = run_in_this_thread(Call(step, self.settings, inputs, self.root, extra=extra), [*self._futures.values()])
        self.record["models"] = self._keep(done).summary["models"]

    def _note(self, record: StepRecord, *, reused: bool) -> None:
        self.record["steps"][record.key] = {
            "fingerprint": record.fingerprint,
            "folder": self.folders[record.key].relative_to(self.root).as_posix(),
            "seconds": record.seconds,
            "reused": reused,
        }
        self._finished.append(record)
        if self._parent is not None:
            self._log(record)
            self._write()

    def _log(self, record: StepRecord) -> None:
        assert self._parent is not None
        if not tracking.log_step(self._parent, record, self.folders[record.key], self.settings, root=self.root):
            return
        for other in self._finished:  # runs were replaced, into which they had written as well
            tracking.log_step(self._parent, other, self.folders[other.key], self.settings, root=self.root)

    def _close(self, status: Any, error: str | None = None) -> None:
        self.record |= {"status": status, "finished": now(), "error": error}
        with closing(status):
            if "fingerprint" not in self.record:
                asked = self.settings.model_dump(mode="json", exclude=set(ELSEWHERE))
                self._name(request_fingerprint(asked), {"data": {}, **code_facts()})
            self._write()
            tracking.close_run(self._open(), status, self.settings, root=self.root, error=error)

    def _write(self) -> None:
        steps: Mapping[str, Path] = self.folders
        self.workspace.record_run(self.record["fingerprint"], self.record, steps)
