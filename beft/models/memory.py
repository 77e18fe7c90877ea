"""The memory that is free, and that which something takes above what was taken before it."""

from pathlib import Path

import torch

from beft.limits import free_memory

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


def available_bytes(device: torch.device) -> int:
    """The free memory of the GPU, or of the machine (below the memory limit of its container).

    Args:
        device: Of the base's inputs. Where the base is spread over several GPUs, the least free of them counts.
    """
    if device.type == "cuda":
        gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        used = [gpu for gpu in gpus if torch.cuda.memory_allocated(gpu)]
        return int(min(torch.cuda.mem_get_info(gpu)[0] for gpu in used or [device]))
    return free_memory()


def _resident(name: str) -> int:
    """A resident size of this process, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
