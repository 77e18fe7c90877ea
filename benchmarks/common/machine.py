"""The machine that was measured on."""

import platform
import time
from collections.abc import Mapping
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


def with_earlier(now: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """``describe`` of now, with the processors of an earlier one: some studies go on over days and machines."""
    names = {name for about in (earlier, now) if "cpu" in about for name in str(about["cpu"]).split(" and ")}
    return {**now, **({"cpu": " and ".join(sorted(names))} if names else {})}
