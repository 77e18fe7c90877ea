"""Several steps at once: as many as can compute, so that none waits in a thread that Ctrl-C does not reach."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from beft.settings import BaseSettings
from flows.runs.steps import Submitted
from flows.runs.task_runner import DASK
from tasks.engine.compute_slots import places_here

_ON_DASK = 64  # its scheduler keeps the queue
_LOOK_SECONDS = 0.05


def width(base: BaseSettings) -> int:
    """How many steps are handed out at once: one a place of this machine; on a Dask cluster, plenty."""
    return _ON_DASK if os.environ.get(DASK) else len(places_here(base))


def windowed(starts: Sequence[Callable[[], Submitted]], at_once: int) -> Iterator[Submitted]:
    """Submit steps in their order, so many at once, and give each in its order when it has ended.

    A long one holds up those that are given after it, but not those that compute beside it.
    """
    waiting, running = deque(starts), deque[Submitted]()
    while waiting or running:
        while waiting and sum(not one.ended for one in running) < at_once:
            running.append(waiting.popleft()())
        if running[0].ended:
            yield running.popleft()
        else:
            time.sleep(_LOOK_SECONDS)
