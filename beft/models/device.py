"""Where and in which precision a model is computed. Resolved once, set, and stored; never inherited."""

from dataclasses import dataclass

import torch

from beft.errors import InputError
from beft.models.machine import cpu_multiplies_bf16
from beft.settings import BaseSettings, DeviceMap, Quantization

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclass(frozen=True)
class Compute:
    """How a step computes: resolved device, precision, number of CPU threads, and the form and places of the base."""

    device: str
    precision: str
    threads: int
    quantization: Quantization = "none"
    device_map: DeviceMap = "none"

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the frozen base. What is trained is never narrower than fp32."""
        return DTYPES[self.precision]

    def to_json(self) -> dict[str, str | int]:
        """The JSON form that is stored with every step and adapter."""
        stored: dict[str, str | int] = {
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
        }
        if self.quantization != "none":
            stored["quantization"] = self.quantization
        if self.device_map != "none":
            stored["device_map"] = self.device_map
        return stored


def resolve_compute(settings: BaseSettings) -> Compute:
    """Choose device and precision for this machine, without touching any state of the process.

    Raises:
        InputError: ``device: cuda`` on a machine without one.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("base.device is 'cuda', but torch finds no CUDA device here; use 'auto' or 'cpu'")
    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" or cpu_multiplies_bf16() else "fp32"
    return Compute(device, precision, settings.threads, settings.quantization, settings.device_map)


def set_threads(compute: Compute) -> None:
    """Set the process's CPU threads: sums are split by thread, so their number is part of a result."""
    torch.set_num_threads(compute.threads)
