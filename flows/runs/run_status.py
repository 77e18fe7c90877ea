"""How a run ends: finished, failed, or killed; whatever it is, it is written down."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any

from beft.errors import BeftError, writable
from tasks.tracking.connection import hurried

logger = logging.getLogger(__name__)


class UnfinishedStepError(Exception):
    """Nothing can be reused: what the message names has to be made. The run is not at its end."""


class TerminationSignal(BaseException):
    """SIGTERM, where ``ending_by_sigterm`` takes it."""


Close = Callable[[str, str | None], None]
"""Takes MLflow's word for how a run ended, and what ended it, where that was an error."""


@contextmanager
def ending(close: Close) -> Iterator[None]:
    """Call ``close`` with how the block ended; what it raised goes on. An ``UnfinishedStepError`` is no end."""
    try:
        yield
    except UnfinishedStepError:
        raise
    except Exception as error:
        close("FAILED", writable(str(error)))
        raise
    except BaseException as error:  # Ctrl-C, or Prefect cancels the run
        close("KILLED", type(error).__name__)
        raise
    close("FINISHED", None)


@contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end the block as Ctrl-C does, and then the process as it would by itself; Prefect does so in a flow.

    It is for the main thread, which alone gets signals.
    """

    def end(_number: int, _frame: Any) -> None:
        raise TerminationSignal

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except TerminationSignal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


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
