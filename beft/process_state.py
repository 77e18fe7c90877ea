"""What all of a process shares in torch, set for a block and given back after it: random generators and CPU threads."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch


class Threaded(Protocol):
    """Something that is computed with a number of CPU threads of its own."""

    threads: int | None


P = ParamSpec("P")
Result = TypeVar("Result")
On = TypeVar("On", bound=Threaded)


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads: sums are split by thread, so their number is part of a result.

    Args:
        threads: None: as many as the process uses anyway.
    """
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_own_threads(function: Callable[Concatenate[On, P], Result]) -> Callable[Concatenate[On, P], Result]:
    """Make a function compute with the ``threads`` of its first argument, a classifier."""

    @functools.wraps(function)
    def wrapper(on: On, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        with cpu_threads(on.threads):
            return function(on, *args, **kwargs)

    return wrapper


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Draw from a seed: torch's generators of the CPU and, for a device that is one, of all GPUs."""
    generators: list[Any] = [torch.default_generator]
    gpus: range | list[int] = []
    if torch.device(device).type == "cuda":
        torch.cuda.init()  # what is seeded before would be seeded for good
        gpus = range(torch.cuda.device_count())
        generators += torch.cuda.default_generators
    with torch.random.fork_rng(devices=gpus):
        for generator in generators:
            generator.manual_seed(seed)
        yield
