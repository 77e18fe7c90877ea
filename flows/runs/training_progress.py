"""How far a training is, as a progress artifact in Prefect, read from the lines that it says."""

import logging
import re
import time
from typing import Any

_LINE = re.compile(r"^(?P<what>[^:]+): (?:step|epoch) (?P<done>[\d,]+)/(?P<all>[\d,]+)")
_SECONDS = 2.0  # between two changes of what the server shows

logger = logging.getLogger(__name__)


class TrainingProgress:
    """Follows one task; call it with each line. The artifact is made by the first line that tells how far it is."""

    def __init__(self, key: str, title: str) -> None:
        self.key, self.title = key, title
        self._artifact: Any = None
        self._what = ""
        self._percent = 0.0
        self._told = float("-inf")
        self._fails = False

    def __call__(self, line: str) -> None:
        """Show what the line says, if it says something of it and the last change is some seconds ago."""
        found = _LINE.match(line)
        if found is None or self._fails:
            return
        percent = 100 * _number(found["done"]) / max(1, _number(found["all"]))
        if found["what"] != self._what:
            self._what, self._percent = found["what"], 0.0
        ends = percent >= 100 > self._percent
        self._percent = min(100.0, max(self._percent, percent))
        if not ends and time.monotonic() - self._told < _SECONDS:
            return
        self._told = time.monotonic()
        self._show(f"{self.title}: {line}")

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


def _number(text: str) -> int:
    return int(text.replace(",", ""))
