"""One run among many: whatever goes wrong in it is its own result, and the others keep theirs."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from beft.comparison.result import MethodRun, NotAvailable
from beft.errors import BeftError, InputError
from beft.models.memory import is_out_of_memory, out_of_memory_reason

log = logging.getLogger("beft.comparison")


Made = TypeVar("Made")


def attempt(run: MethodRun, make: Callable[[], Made]) -> Made | NotAvailable:
    """What a run gives, or why it gives nothing; the traceback of an unexpected error goes to the log."""
    [found] = attempt_together([run], lambda: [make()])
    return found


def attempt_together(runs: Sequence[MethodRun], make: Callable[[], Sequence[Made]]) -> list[Made | NotAvailable]:
    """The same of runs that end together."""
    failed = True
    try:
        return [*make()]
    except BeftError as error:
        reason, failed = str(error), not isinstance(error, InputError)
    except Exception as error:
        if is_out_of_memory(error):
            reason = out_of_memory_reason(error)
        else:
            log.exception("%s failed", ", ".join(f"{run.method} of seed {run.seed}" for run in runs))
            reason = f"{type(error).__name__}: {error}"
    gc.collect()  # the error, which held on to what was computed, is gone here
    torch.cuda.empty_cache()
    return [NotAvailable(run, reason, failed=failed) for run in runs]
