"""Free memory, the memory that something takes above what was taken before it, and errors that say none is left."""

from pathlib import Path

import torch

from beft.limits import free_memory

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

_SAID = (
    "not enough memory",
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
)
"""What torch's allocator of the CPU and oneDNN say in a plain RuntimeError; oneDNN names no reason, but a shape that
computed a moment ago lacks nothing else."""


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


def out_of_memory_reason(error: BaseException) -> str:
    """What to tell of a training that does not fit into memory."""
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"out of memory ({first_line}): not even one run fits beside what else runs on this machine; set "
        "train.micro_batch_size to less than train.batch_size, or train.activation_checkpointing to true"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on a GPU or on the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


def _resident(name: str) -> int:
    """A resident size of this process, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
