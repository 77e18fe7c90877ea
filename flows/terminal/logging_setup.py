"""What the log of a flow shows: our own lines on the terminal too, and no traceback of an error the user can mend."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from beft.errors import BeftError
from tasks.engine.transient import is_transient


class _WithoutTraceback(logging.Filter):
    """Take the traceback off a record whose error carries all that the user needs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, BeftError) or is_transient(error):  # the latter where Prefect's server is away
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


_filter = _WithoutTraceback()


_OWN = ("beft", "tasks", "flows")


@contextmanager
def log_without_prefect() -> Iterator[None]:
    """Show our own lines on the terminal in the block, as Prefect does in a flow run."""
    set_up_log()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d | %(levelname)-7s | %(name)s - %(message)s", "%X"))
    for name in _OWN:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in _OWN:
            logging.getLogger(name).removeHandler(handler)


def set_up_log() -> None:
    """Prefect has set up its log when it was imported; change what it shows."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_filter)
    for name in _OWN:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # it tells of every temporary folder
