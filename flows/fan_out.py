"""Several steps at once: as many as can compute, so that none waits in a thread that Ctrl-C does not reach."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from beft.settings import BaseSettings
from flows.steps import Submitted
from flows.task_runner import DASK
from tasks.places import places_here

_ON_DASK = 64  # its scheduler keeps the queue


def width(base: BaseSettings) -> int:
    """How many steps are handed out at once: one a place of this machine; on a Dask cluster, plenty."""
    return _ON_DASK if os.environ.get(DASK) else len(places_here(base))


def windowed(starts: Sequence[Callable[[], Submitted]], at_once: int) -> Iterator[Submitted]:
    """Submit steps in their order, so many at once, and give each in its order; the caller waits for it."""
    running: deque[Submitted] = deque()
    for start in starts:
        if len(running) == at_once:
            yield running.popleft()
        running.append(start())
    yield from running
