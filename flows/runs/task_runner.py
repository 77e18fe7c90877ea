"""Where the tasks of a flow run: in threads of its process, or on a Dask cluster; that is configuration, not code."""

import os
from typing import Any

from beft.commands import pip_install
from beft.errors import InputError

DASK = "BEFT_DASK"
"""The address of a Dask scheduler, ``tcp://HOST:8786``; or a number: so many local workers, for the length of the flow.

The workers need the libraries and the workspace's folder at the same path. What steps read of the environment,
BEFT_DATA_DIR and HF_HUB_OFFLINE, is given to them.
"""

THREADS = 8  # how many tasks wait at once; how many compute at once, the places of the machine say


def task_runner() -> Any:
    """The task runner that the environment asks for.

    Raises:
        InputError: A Dask cluster is asked for, and prefect-dask is not installed.
    """
    wanted = os.environ.get(DASK, "").strip()
    if not wanted:
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=THREADS)
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise InputError(f"{DASK} asks for a Dask cluster, which needs: {pip_install('beft[dask]')}") from None
    if wanted.isdigit():
        workers = {"n_workers": int(wanted), "threads_per_worker": 1, "dashboard_address": None}
        return DaskTaskRunner(cluster_kwargs=workers)
    return DaskTaskRunner(address=wanted)
