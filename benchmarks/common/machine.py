"""The machine that was measured on."""

import platform
import time
from pathlib import Path
from typing import Any

import torch

from beft.models.device import Compute


def describe(compute: Compute) -> dict[str, Any]:
    """Processor, GPU, versions, date, and what is computed with."""
    return {
        **({"gpu": torch.cuda.get_device_name()} if compute.device == "cuda" else {}),
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **compute.to_json(),
    }


def cpu_name() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def gemm_gflops(size: int = 1536, repetitions: int = 5) -> float:
    """Billions of operations a second of a large fp32 matrix product with the threads in use: the best of a few."""
    one, two = torch.rand(size, size), torch.rand(size, size)
    best = 0.0
    for _ in range(repetitions):
        began = time.perf_counter()
        one @ two
        best = max(best, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return best
