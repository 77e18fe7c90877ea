"""Which parameters take a gradient, for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def requires_grad_set(parameters: Iterable[nn.Parameter], *, on: bool) -> Iterator[None]:
    """Within the context the parameters take a gradient, or none; afterwards each does what it did before."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(on)
        yield
    finally:
        for parameter, took in before:
            parameter.requires_grad_(took)
