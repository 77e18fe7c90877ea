"""How far a training is, as a progress artifact in Prefect."""

import logging
import time
from typing import Any

from tasks.engine.isolated_step import Event

_SECONDS = 2.0  # between two changes of what the server shows

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Follows one task; call it with each event. The artifact is made by the first one that tells how far it is."""

    def __init__(self, key: str, title: str) -> None:
        self.key, self.title = key, title
        self._artifact: Any = None
        self._pass = ""
        self._percent = 0.0
        self._updated = float("-inf")
        self._fails = False

    def __call__(self, event: Event) -> None:
        """Show how far a pass is, if the event tells it and the last change is some seconds ago."""
        if "done" not in event or self._fails:
            return
        percent = 100 * event["done"] / max(1, event["all"])
        if event["pass"] != self._pass:
            self._pass, self._percent = event["pass"], 0.0
        ends = percent >= 100 > self._percent
        self._percent = min(100.0, max(self._percent, percent))
        if not ends and time.monotonic() - self._updated < _SECONDS:
            return
        self._updated = time.monotonic()
        self._show(f"{self.title}: {event['pass']}, step {event['done']:,} of {event['all']:,}")

    def _show(self, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(self._percent, key=self.key, description=text)
            else:
                update_progress_artifact(self._artifact, self._percent, description=text)
        except Exception as error:  # a server that is away for a while ends no training
            self._fails = True
            logger.warning("%s: its progress is not shown any more: %s", self.title, error)
