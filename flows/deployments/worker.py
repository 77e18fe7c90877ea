"""Workers: they fetch due flow runs of a work pool from the Prefect server and start them, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import typer

from beft.errors import BeftError
from beft.names import known_name
from flows.deployments.deployment import POOLS
from flows.servers.prefect_server import server_address
from flows.terminal.commands import server_command
from tasks.engine.supervisor import end, start
from tasks.environment import configure_environment

_STOP_SECONDS = 30
_SETTLED_SECONDS = 60  # a worker that stops sooner would stop again


def work(root: Path, pools: Sequence[str] = (), *, limit: int = 1) -> None:
    """Run a worker for each pool until Ctrl-C or SIGTERM, which end the flow runs that they have started as well.

    Args:
        root: The folder of the project.
        pools: Which pools; empty: all.
        limit: Flow runs that each worker lets run at once; the others wait on the server.

    Raises:
        InputError: There is no such pool.
        BeftError: No server answers, or a worker stops as soon as it was started.
    """
    names = dict.fromkeys(known_name(name, POOLS, "work pool") for name in pools or POOLS)
    configure_environment(root)
    address = server_address()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    began: dict[str, float] = {}
    try:
        for name in names:
            processes[name], began[name] = _start(name, address, limit, root), time.monotonic()
        typer.echo(f"Working for {address} on the pools {', '.join(names)}. Ctrl-C stops.")
        while True:
            for name, process in list(processes.items()):
                if process.poll() is None:
                    continue
                said = f"the worker of pool {name} stopped with status {process.returncode}"
                if time.monotonic() - began[name] < _SETTLED_SECONDS:
                    raise BeftError(f"{said}; what it said is above (has '{server_command('deploy')}' made the pools?)")
                typer.echo(f"{said}; it is started again", err=True)
                processes[name], began[name] = _start(name, address, limit, root), time.monotonic()
            time.sleep(0.5)
    except KeyboardInterrupt:
        typer.echo("\nThe workers stop.")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # stopping takes a moment; a second Ctrl-C must not cut it short
        _stop(list(processes.values()))


def _start(pool: str, address: str, limit: int, root: Path) -> "subprocess.Popen[bytes]":
    """A worker in a session of its own, so that Ctrl-C reaches this process alone; it ends with this process."""
    command = ["prefect", "worker", "start", "--pool", pool, "--limit", str(limit)]
    return start(
        [sys.executable, "-m", *command, "--name", f"{os.uname().nodename} {pool}"],
        patience=_STOP_SECONDS,
        whole_group=False,  # a worker ends its flow runs itself, and tells the server
        cwd=root,
        env=os.environ | {"PREFECT_API_URL": address},
        stdin=subprocess.DEVNULL,
    )


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        end(process, _STOP_SECONDS)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
