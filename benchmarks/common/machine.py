"""The machine that was measured on."""

import platform
import time
from typing import Any

import torch

from beft.models.device import Compute
from beft.models.machine import cpu_name


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
