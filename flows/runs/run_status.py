"""How a run ends: finished, failed, or killed; whatever it is, it is written down."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime

from beft.errors import BeftError, writable
from tasks.tracking.connection import hurried

logger = logging.getLogger(__name__)

Close = Callable[[str, str | None], None]
"""Takes MLflow's word for how a run ended, and what ended it, where that was an error."""


@contextmanager
def ending(close: Close) -> Iterator[None]:
    """Call ``close`` with how the block ended; what it raised goes on."""
    try:
        yield
    except Exception as error:
        close("FAILED", writable(str(error)))
        raise
    except BaseException as error:  # Ctrl-C, or Prefect cancels the run
        close("KILLED", type(error).__name__)
        raise
    close("FINISHED", None)


@contextmanager
def closing(status: str) -> Iterator[None]:
    """Write in the block how a run ended. Of one that failed, the error that ended it is the one to see."""
    try:
        with hurried() if status == "KILLED" else nullcontext():
            yield
    except (BeftError, OSError) as reason:
        if status == "FINISHED":
            raise
        logger.warning("how the run ended could not be written into all of its records: %s", reason)


def now() -> str:
    """The time, ISO 8601 to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
