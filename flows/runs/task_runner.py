"""Where the tasks of a flow run: in threads of its process, or on a Dask cluster; that is configuration, not code."""

import os
from typing import Any

from prefect.task_runners import ThreadPoolTaskRunner

from beft.commands import pip_install
from beft.errors import InputError
from flows.runs.chains import DASK


class _ConfiguredTaskRunner(ThreadPoolTaskRunner[Any]):
    """The task runner that the environment asks for when a flow starts: Prefect then duplicates that of the flow."""

    def duplicate(self) -> Any:
        """The one that is started."""
        return task_runner()


CONFIGURED: Any = _ConfiguredTaskRunner()
"""The task runner of the flows."""


def task_runner() -> Any:
    """The task runner that the environment asks for now. How many steps compute at once, the chains say.

    Raises:
        InputError: A Dask cluster is asked for, and prefect-dask is not installed.
    """
    wanted = os.environ.get(DASK, "").strip()
    if not wanted:
        return ThreadPoolTaskRunner()
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise InputError(f"{DASK} asks for a Dask cluster, which needs: {pip_install('beft[dask]')}") from None
    if wanted.isdecimal():
        workers = {"n_workers": int(wanted), "threads_per_worker": 1, "dashboard_address": None}
        return DaskTaskRunner(cluster_kwargs=workers)
    return DaskTaskRunner(address=wanted)
