"""What all of a process shares, set for a block and given back after it: torch's random generators, CPU threads."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
Result = TypeVar("Result")


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads: sums are split by thread, so their number is part of a result.

    torch takes the number over for each thread of Python when that first computes, and never again: one that begins
    while this lasts keeps it. So give the threads of a pool something to compute before, or set their number.

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


def with_own_threads(function: Callable[P, Result]) -> Callable[P, Result]:
    """Make a function compute with the ``threads`` of its first argument, a classifier; it may be given by name."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Result:
        on = args[0] if args else kwargs.get(first)
        with cpu_threads(getattr(on, "threads", None)):
            return function(*args, **kwargs)

    return wrapper


def one_blas_thread() -> AbstractContextManager[Any]:
    """Compute with one thread of BLAS, as numpy, scipy and scikit-learn do: their bytes depend on the number."""
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _blas() -> "ThreadpoolController":
    """The BLAS libraries of this process: finding them reads the list of all its libraries, which takes 5 ms."""
    import scipy.linalg  # noqa: F401  # scipy brings its own, beside numpy's
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


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
