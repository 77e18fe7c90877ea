"""One run among many: whatever goes wrong in it is its own result, and the others keep theirs."""

import gc
import logging
from collections.abc import Callable

import torch

from beft.errors import BeftError, InputError
from beft.methods.result import MethodResult, MethodRun, NotAvailable
from beft.out_of_memory import is_out_of_memory, out_of_memory_reason

log = logging.getLogger("beft.methods")


def attempt(run: MethodRun, make: Callable[[], MethodResult]) -> MethodResult | NotAvailable:
    """What a run gives, or why it gives nothing; the traceback of an unexpected error goes to the log."""
    try:
        return make()
    except InputError as error:
        return NotAvailable(run, str(error))
    except BeftError as error:
        reason = str(error)
    except Exception as error:
        if is_out_of_memory(error):
            reason = out_of_memory_reason(error)
        else:
            log.exception("%s of seed %d failed", run.method, run.seed)
            reason = f"{type(error).__name__}: {error}"
    gc.collect()  # the error, which held on to what was computed, is gone here
    torch.cuda.empty_cache()
    return NotAvailable(run, reason, failed=True)
