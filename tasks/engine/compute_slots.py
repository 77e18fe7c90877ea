"""A place to compute: one step at a time on a GPU, and on CPUs no more steps at once than their cores carry.

A place is a lock on a file that the process of the step holds as well: whatever ends both, kill -9 too, gives it back.
GPUs are shared by everybody on this machine, and so are their locks; places on CPUs are those of a workspace.
"""

import fcntl
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from beft.errors import BeftError
from beft.limits import usable_cores
from beft.settings import BaseSettings
from tasks.engine.supervisor import STOPPING
from tasks.environment import SPIN_COUNT, SPINS, WAIT_POLICY

GPUS = "BEFT_GPUS"
"""Names the GPUs that may be used, ``0,1``; empty: none. Left out: those of CUDA_VISIBLE_DEVICES, or all."""

_LOOK_AGAIN = 0.2  # seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComputeSlot:
    """What a step got.

    Attributes:
        names: The places taken, ``gpu 0`` or ``cpu 0``; none for a step that needs none.
        environment: Variables for its process: CUDA_VISIBLE_DEVICES, and how threads wait where cores are short.
        descriptors: Open files that its process must inherit to hold the places.
    """

    names: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


NO_SLOT = ComputeSlot()
"""What a step gets that needs no place."""


def slots_here(base: BaseSettings) -> list[str]:
    """The places of this machine for steps that compute with this base: its GPUs, else its CPU cores in portions."""
    gpus = [] if base.device == "cpu" else _gpus()
    if gpus:
        return [f"gpu {gpu}" for gpu in gpus]
    return [f"cpu {number}" for number in range(max(1, usable_cores() // base.threads))]


@contextmanager
def acquire_slot(key: str, base: BaseSettings, root: Path) -> Iterator[ComputeSlot]:
    """Wait for a free place and hold it for the length of the block.

    Args:
        key: The step, for the log.
        root: The workspace.
    """
    names = slots_here(base)
    on_gpu = names[0].startswith("gpu ")
    folder = _shared_folder() if on_gpu else root / "runs" / "places"
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if on_gpu else f"{socket.gethostname()}-"  # machines that share a folder do not share cores
    paths = {name: folder / f"{prefix}{name.replace(' ', '-').replace('/', '-')}.lock" for name in names}
    spread = on_gpu and base.device_map == "auto"
    with ExitStack() as held:
        if spread:  # one after the other, always in this order: no two can block each other
            taken = {name: _take(key, {name: path}, held)[1] for name, path in paths.items()}
        else:
            name, descriptor = _take(key, paths, held)
            taken = {name: descriptor}
        if on_gpu:
            logger.info("%s: on %s", key, ", ".join(taken))
        else:
            why = "base.device is cpu" if base.device == "cpu" else "there is no GPU here"
            logger.info("%s: on the CPU, with %d threads (%s)", key, base.threads, why)
        visible = ",".join(name.removeprefix("gpu ") for name in taken)
        environment = {"CUDA_VISIBLE_DEVICES": visible} if on_gpu else {}
        yield ComputeSlot(
            tuple(taken),
            environment | _wait_policy(base.threads * (1 if spread else len(names))),
            tuple(taken.values()),
        )


def _wait_policy(threads: int) -> dict[str, str]:
    """How threads wait for one another when so many compute at once on this machine, unless the user has said it.

    Where there are more of them than cores, one that waits gives its core to the others at once; else that costs a
    third of the speed.
    """
    said = WAIT_POLICY in os.environ or os.environ.get(SPIN_COUNT, SPINS) != SPINS
    crowded = threads > usable_cores() and not said
    return {WAIT_POLICY: "PASSIVE", SPIN_COUNT: "0"} if crowded else {}


def _gpus() -> list[str]:
    named = os.environ.get(GPUS, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if named is not None and (GPUS in os.environ or named.strip() in ("", "-1")):
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]

    import torch

    if not torch.cuda.is_available():
        return []
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


def _shared_folder() -> Path:
    """One for all users of this machine."""
    folder = Path(tempfile.gettempdir()) / "beft-gpus"
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    return folder


def _take(key: str, paths: Mapping[str, Path], held: ExitStack) -> tuple[str, int]:
    """Wait for the first of these that is free; its name and the descriptor that holds it.

    Raises:
        BeftError: The run that waits was stopped.
    """
    told = False
    while True:
        for name, path in paths.items():
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            held.callback(os.close, descriptor)
            return name, descriptor
        if not told:
            logger.info("%s: waiting for %s", key, " or ".join(paths))
            told = True
        if STOPPING.wait(_LOOK_AGAIN):
            raise BeftError(f"{key}: stopped while it waited; run it again to resume")


def _open(path: Path) -> int:
    """Open a lock file, which stays for ever: one that is deleted while in use would be locked twice."""
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    except PermissionError:  # another user's, in a folder for all
        return os.open(path, os.O_RDONLY | flags)
