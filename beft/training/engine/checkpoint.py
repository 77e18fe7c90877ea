"""The state of an interrupted pass: everything its runs need to go on as if they had never stopped.

One safetensors file a pass, replaced atomically: tensors (parameters, moments, best epochs so far, random state) and,
in its header, each run's position in the data and history as JSON. Nothing is pickled.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from beft.files import write_bytes
from beft.training.engine.bias_parameters import BiasParameters


@dataclass
class RunState:
    """How far one run has come.

    Attributes:
        epoch: The epoch that is being trained, from 1.
        batch: Batches of that epoch already trained.
        step: Optimiser steps so far.
        loss_sum: The sum of the losses of this epoch's rows so far.
        history: One record a finished epoch.
        stopped: Whether it has ended: after its last epoch, or early.
        failed: Why it cannot go on; None where it can, or has ended well.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    failed: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The file of a pass.

    Attributes:
        identity: The sha256 over what the pass was asked to do; a checkpoint of another pass is never continued.
    """

    path: Path
    identity: str


class PassCheckpoint:
    """The checkpoint of a pass of bias runs: read once at the start, replaced while it trains.

    Args:
        file: Where it is.
        parameters: What the pass trains.
        device: On which it trains; its random state is kept.
    """

    def __init__(self, file: Checkpoint, parameters: BiasParameters, device: torch.device) -> None:
        self._file, self._parameters, self._device = file, parameters, device

    def read(self) -> list[RunState] | None:
        """Load what an interrupted pass left: its runs' states; None where there is nothing to continue."""
        found = read_checkpoint(self._file)
        if found is None:
            return None
        states, tensors = found
        self._parameters.load_state(tensors, [state.step for state in states])
        set_random_state(tensors)
        return states

    def write(self, states: list[RunState]) -> None:
        """Replace the file by the state as it is now."""
        write_checkpoint(self._file, states, {**self._parameters.state(), **random_state(self._device)})


def write_checkpoint(checkpoint: Checkpoint, positions: list[RunState], tensors: dict[str, Tensor]) -> None:
    """Replace the checkpoint on disk, whole or not at all."""
    # JSON of a float is exact in Python: it is read back bit for bit.
    header = {"identity": checkpoint.identity, "positions": json.dumps([asdict(one) for one in positions])}
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(checkpoint.path, save(found, metadata=header))


def read_checkpoint(checkpoint: Checkpoint) -> tuple[list[RunState], dict[str, Tensor]] | None:
    """Read a checkpoint; None when there is none, it is damaged, or it belongs to another pass."""
    try:
        with safe_open(checkpoint.path, framework="pt") as file:
            header = file.metadata() or {}
            positions = [RunState(**one) for one in json.loads(header["positions"])]
            # Copied: what is read is mapped from the file, and must outlive it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return (positions, tensors) if header.get("identity") == checkpoint.identity else None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators, which draw dropout."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()  # a base may be spread over all of them
    states = {f"random/cuda/{gpu}": torch.cuda.get_rng_state(gpu) for gpu in gpus}
    return {"random/cpu": torch.get_rng_state(), **states}


def set_random_state(states: dict[str, Tensor]) -> None:
    """Give torch's generators back the states that ``random_state`` read."""
    torch.set_rng_state(states["random/cpu"])
    for name, state in states.items():
        if name.startswith("random/cuda/") and (gpu := int(name.rpartition("/")[2])) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, gpu)
