"""What every run has: finished steps, its folder with ``run.json``, its MLflow run, its end, and chains of steps."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import get_ident
from typing import TYPE_CHECKING, Any

from beft.files import write_text
from beft.yaml_text import format_yaml
from flows.runs.chains import Inbox, Result, run_chains
from flows.runs.links import link_runs
from flows.runs.run_status import closing, ending, now
from tasks.engine.provenance import code_facts
from tasks.engine.store import StepRecord
from tasks.engine.workspace import Workspace
from tasks.settings import PipelineSettings
from tasks.tracking.runs import page_of

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Done:
    """A finished step: its record, its folder, its future (None: it has none), and whether it was there already."""

    record: StepRecord
    folder: Path
    future: "PrefectFuture[Any] | None"
    reused: bool


class TrackedRun(ABC):
    """A run that is going on.

    Args:
        flow_run: The id of its flow run in Prefect; None: it has none.
        described: What else ``run.json`` begins with.

    Attributes:
        record: What ``run.json`` holds; a JSON object that grows with the run.
        folders: Key of a step to the folder of its result.
        parent: The id of its MLflow run; None before ``open``.
    """

    def __init__(
        self, settings: PipelineSettings, workspace: Workspace, flow_run: str | None, **described: Any
    ) -> None:
        self.settings, self.workspace, self.root = settings, workspace, workspace.root
        self.folders: dict[str, Path] = {}
        self.parent: str | None = None
        self.record: dict[str, Any] = {
            "status": "RUNNING",
            "started": now(),
            "prefect_flow_run": flow_run,
            **described,
            "steps": {},
        }
        self._inbox: Inbox = SimpleQueue()
        self._owner = get_ident()

    @abstractmethod
    def fingerprint(self) -> str:
        """Its identity, as far as it is known before any step."""

    @abstractmethod
    def open_tracking(self) -> str:
        """The id of its MLflow run, which is found or made."""

    @abstractmethod
    def close_tracking(self, status: Any, error: str | None) -> None:
        """End its MLflow run."""

    @property
    def tracked_settings(self) -> PipelineSettings:
        """The settings with the experiment of its MLflow run."""
        return self.settings

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Write the end of the run into its folder and into MLflow, whatever that is."""
        with ending(self._close):
            yield

    def name(self) -> None:
        """Give it its identity and its folder, with the settings and ``run.json``."""
        fingerprint = self.fingerprint()
        folder = self.workspace.run_folder(fingerprint)
        run_folder = folder.relative_to(self.root).as_posix()
        facts = {"data": {}, **code_facts(), "run_folder": run_folder}
        self.record |= {"fingerprint": fingerprint, "run_folder": run_folder, "facts": facts}
        values = self.settings.model_dump(mode="json")
        write_text(folder / "params.yaml", format_yaml(values))
        self.write()

    def open(self) -> str:
        """Open its MLflow run, and link it with the flow run's page in Prefect; the id."""
        if self.parent is None:
            self.parent = self.record["mlflow_run"] = self.open_tracking()
            page = self.record["mlflow_page"] = page_of(self.parent, self.tracked_settings, root=self.root)
            self.write()
            link_runs(self.record["prefect_flow_run"], self.parent, page, self.tracked_settings, self.root)
        return self.parent

    def note(self, key: str, done: Done) -> None:
        """Write a finished step into ``run.json``."""
        self.folders[key] = done.folder
        self.record["steps"][key] = {
            "fingerprint": done.record.fingerprint,
            "folder": done.folder.relative_to(self.root).as_posix(),
            "seconds": done.record.seconds,
            "reused": done.reused,
        }
        self.write()

    def post(self, function: Callable[[], None]) -> None:
        """Have the thread of the flow call a function: at once in that thread, from a chain as soon as it can."""
        if get_ident() == self._owner:
            function()
        else:
            self._inbox.put(function)

    def run_chains(
        self, chains: Mapping[str, Callable[[], Result]], at_once: int
    ) -> tuple[dict[str, Result], dict[str, Exception]]:
        """Run each chain in a thread, so many at once: the results of those that have one, and the errors."""
        return run_chains(chains, at_once, self._inbox)

    def write(self) -> None:
        """Write ``run.json`` and the links to the steps, once the run has a folder."""
        if "fingerprint" in self.record:
            self.workspace.record_run(self.record["fingerprint"], self.record, self.folders)

    def _close(self, status: str, error: str | None = None) -> None:
        self.record |= {"status": status, "finished": now(), "error": error}
        with closing(status):
            if "fingerprint" not in self.record:
                self.name()
            self.write()
            self.open()
            self.close_tracking(status, error)
