"""The memory that something takes above what was taken before it."""

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """The greatest memory from where it is made on: of the GPUs, or of the process (Linux alone can tell).

    Args:
        device: Where the base computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpus = range(torch.cuda.device_count()) if device.type == "cuda" else None
        self._before: int | None = None
        if self._gpus is not None:
            for gpu in self._gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
            self._before = sum(torch.cuda.memory_allocated(gpu) for gpu in self._gpus)
            return
        try:
            _CLEAR.write_text("5")  # the greatest resident size counts from here
            self._before = _resident("VmRSS")
        except OSError:  # no Linux, or a container that forbids it
            pass

    def above(self) -> int | None:
        """Bytes of the greatest size so far above the size at the start; None where it cannot be told."""
        if self._before is None:
            return None
        if self._gpus is not None:
            return sum(torch.cuda.max_memory_allocated(gpu) for gpu in self._gpus) - self._before
        return max(0, _resident("VmHWM") - self._before)


def _resident(name: str) -> int:
    """A resident size of this process, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
