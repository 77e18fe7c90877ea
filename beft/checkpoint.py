"""The state of an interrupted training: everything a run needs to go on as if it had never stopped.

One safetensors file a run, replaced atomically: tensors (biases, head, optimiser, random state, best epoch so far) and,
in its header, the position in the data and the history as JSON. Nothing is pickled.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from beft.files import sha256_json, write_bytes


@dataclass
class Checkpoint:
    """The state of one run between two steps.

    Attributes:
        identity: What the run was asked to do; a checkpoint of another run is never continued.
        epoch: The epoch that is being trained, from 1.
        batch: Batches of that epoch already trained.
        step: Optimiser steps so far.
        loss_sum: The sum of the losses of this epoch's rows so far.
        history: One record a finished epoch.
        tensors: Parameters, their Adam moments, the best epoch's parameters, the random state.
    """

    identity: dict[str, Any]
    epoch: int = 1
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the checkpoint on disk, whole or not at all."""
        position = {
            "identity": sha256_json(self.identity),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            # JSON of a float is exact in Python: it is read back bit for bit.
            "loss_sum": self.loss_sum,
            "history": self.history,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_bytes(path, save(tensors, metadata={"position": json.dumps(position)}))

    @classmethod
    def read(cls, path: Path, identity: dict[str, Any]) -> "Checkpoint | None":
        """Read a checkpoint; None when there is none, it is damaged, or it belongs to another run."""
        try:
            with safe_open(path, framework="pt") as file:
                position = json.loads((file.metadata() or {})["position"])
                # Copied: what is read is mapped from the file, and must outlive it.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, KeyError, ValueError):
            return None
        if position.pop("identity") != sha256_json(identity):
            return None
        return cls(identity=identity, tensors=tensors, **position)


def random_state() -> Tensor:
    """The state of torch's generator on the CPU, which draws dropout there."""
    return torch.get_rng_state()
