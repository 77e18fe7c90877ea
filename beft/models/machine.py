"""The machine: its processor, what that multiplies fast, and how fast a large matrix product is on a device."""

import os
import platform
import time
from pathlib import Path

import torch

_CPU_SIZE, _GPU_SIZE = 1536, 8192
_SECONDS = 0.3


def cpu_name() -> str:
    """The processor's own name."""
    named = _cpu_lines("model name")
    return named[0] if named else platform.processor()


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets as Linux names them, such as ``amx_bf16``; empty where they are unknown."""
    return frozenset(word for line in _cpu_lines("flags")[:1] for word in line.split())


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has instructions that multiply bf16 matrices; without them bf16 is emulated, 30 times slower."""
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def load_average() -> float | None:
    """Processes that computed or waited to compute over the last minute, on average; None where it is unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def large_product_rate(device: torch.device | str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of some: two for each pair of numbers multiplied.

    The CPU computes it with the threads that the process has set.
    """
    size = _GPU_SIZE if torch.device(device).type == "cuda" else _CPU_SIZE
    one, two = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    best, began = 0.0, time.perf_counter()
    while not best or time.perf_counter() - began < _SECONDS:
        synchronize(device)
        start = time.perf_counter()
        one @ two
        synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronize(device: torch.device | str) -> None:
    """Wait until the device has computed all that it was given; a CPU always has."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _cpu_lines(name: str) -> list[str]:
    """What the kernel says of each core under a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name]
