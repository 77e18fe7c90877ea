"""What MLflow shows of a step while it runs: its nested run, its curve, its use of the machine, its failure."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from beft.errors import BeftError
from beft.files import read_json
from tasks.engine.declaration import step_key
from tasks.engine.isolated_step import Event
from tasks.engine.store import StepRun
from tasks.settings import PipelineSettings
from tasks.tracking.live import SystemMetrics, fail_step, log_epoch, start_step

logger = logging.getLogger(__name__)


class LiveTracking:
    """Follows the steps of one run.

    An MLflow that is away for a while costs points of a curve, and ends no training: the whole curve is written again
    when the step has finished.

    Args:
        post: Has the thread of the flow call a function.
    """

    def __init__(self, settings: PipelineSettings, root: Path, post: Callable[[Callable[[], None]], None]) -> None:
        self.settings, self.root, self._post = settings, root, post
        self.parent: str | None = None
        self._runs: dict[str, str] = {}
        self._metrics: dict[str, SystemMetrics] = {}

    def listen(self, call: StepRun, event: Event) -> None:
        """Take an event of a step, in the thread that waits for the step."""
        if "started" in event or "epoch" in event:
            self._post(partial(self._write, call, event))

    def _write(self, call: StepRun, event: Event) -> None:
        key = call.key
        if self.parent is None:
            return
        try:
            if "started" in event:
                run = start_step(self.parent, call.step.name, call.dataset, self.settings, root=self.root)
                if run is not None:
                    self._runs[key] = run
                    self._metrics[key] = SystemMetrics(run, self.settings, self.root)
            elif key in self._runs:
                metric = read_json(call.inputs["prepare"] / "data.json")["metric"]
                log_epoch(self._runs[key], event, metric, self.settings, root=self.root)
        except BeftError as error:
            logger.warning("%s: not shown live in MLflow: %s", key, error)

    def end(self, key: str) -> None:
        """A step has ended, well or not."""
        self._runs.pop(key, None)
        if metrics := self._metrics.pop(key, None):
            metrics.stop()

    def fail(self, step: str, dataset: str | None, error: str) -> None:
        """A step has failed; its nested run says so."""
        self.end(step_key(step, dataset))
        if self.parent is None:
            return
        try:
            fail_step(self.parent, step, dataset, error, self.settings, root=self.root)
        except BeftError as reason:  # the error of the step is the one to see
            logger.warning("%s is not shown as failed in MLflow: %s", step_key(step, dataset), reason)
