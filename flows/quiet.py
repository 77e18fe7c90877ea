"""What Prefect's log says of an error that the user can mend: the message, without a traceback."""

import logging

from beft.errors import BeftError


class _WithoutTraceback(logging.Filter):
    """Take the traceback off a record whose error carries all that the user needs."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, BeftError):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


_filter = _WithoutTraceback()


def without_tracebacks() -> None:
    """Apply it to the logs of flow and task runs."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_filter)
