"""Which errors say that memory is used up: a GPU has a kind of its own, a CPU several sentences."""

import torch

_SAID = (
    "not enough memory",
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
)
"""What torch's allocator of the CPU and oneDNN say in a plain RuntimeError; oneDNN names no reason, but a shape that
computed a moment ago lacks nothing else."""


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
