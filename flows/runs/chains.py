"""One chain of steps for each dataset, as many at once as can compute; none waits for another."""

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from queue import SimpleQueue
from typing import TypeVar

from beft.settings import BaseSettings
from tasks.engine.compute_slots import slots_here
from tasks.engine.supervisor import stop_commands

DASK = "BEFT_DASK"
"""The address of a Dask scheduler, ``tcp://HOST:8786``; or a number: so many local workers, for the length of the flow.

The workers need the libraries and the workspace's folder at the same path. What steps read of the environment,
BEFT_DATA_DIR and HF_HUB_OFFLINE, is given to them.
"""

_ON_DASK = 64  # its scheduler keeps the queue

Result = TypeVar("Result")
Inbox = SimpleQueue[Callable[[], None] | None]
"""What chains leave for the thread of the flow to do, which Ctrl-C reaches whatever it waits for."""

logger = logging.getLogger(__name__)


def width(base: BaseSettings) -> int:
    """How many chains run at once: one for each compute slot of this machine; on a Dask cluster, plenty."""
    return _ON_DASK if os.environ.get(DASK) else len(slots_here(base))


def run_chains(
    chains: Mapping[str, Callable[[], Result]], at_once: int, inbox: Inbox
) -> tuple[dict[str, Result], dict[str, Exception]]:
    """Run every chain in a thread, and meanwhile do what they leave in the inbox.

    An error ends its own chain alone.

    Returns:
        The result of each chain that has one, in the order of the chains, and the errors of the others in the order of
        their time.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="chain")
    futures: dict[str, Future[Result]] = {}
    failures: dict[str, Exception] = {}
    try:
        for name, chain in chains.items():
            futures[name] = pool.submit(copy_context().run, _run_chain, name, chain, failures)
            futures[name].add_done_callback(lambda _: inbox.put(None))
        running = len(futures)
        while running:
            function = inbox.get()
            if function is None:
                running -= 1
            else:
                function()
    except BaseException:  # Ctrl-C, or what the inbox holds failed: chains end with the steps that they wait for
        stop_commands()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return {name: future.result() for name, future in futures.items() if future.exception() is None}, failures


def _run_chain(name: str, chain: Callable[[], Result], failures: dict[str, Exception]) -> Result:
    try:
        return chain()
    except Exception as error:
        logger.error("%s", error)  # only the first is raised
        failures[name] = error
        raise
