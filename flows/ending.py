"""How a run ends: finished, failed, or killed; whatever it is, it is written down."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

Close = Callable[[str, str | None], None]
"""Takes MLflow's word for how a run ended, and what ended it, where that was an error."""


@contextmanager
def ending(close: Close) -> Iterator[None]:
    """Call ``close`` with how the block ended; what it raised goes on."""
    try:
        yield
    except Exception as error:
        close("FAILED", str(error))
        raise
    except BaseException as error:  # Ctrl-C, or Prefect cancels the run
        close("KILLED", type(error).__name__)
        raise
    close("FINISHED", None)


def now() -> str:
    """The time, ISO 8601 to the second, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
