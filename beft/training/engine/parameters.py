"""What a pass trains, as its loop sees it: biases and heads of many runs, or weights of one."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from beft.inference.generation import Choose
from beft.inference.runs import WeightsState
from beft.sites.site import BiasSite


@dataclass(frozen=True)
class TrainedValues:
    """What a run trained, on the CPU; the attributes are those of ``beft.inference.runs.RunResult``."""

    head: dict[str, Tensor]
    deltas: dict[BiasSite, Tensor] = field(default_factory=dict)
    weights: WeightsState | None = None


class Parameters(Protocol):
    """The trained parameters of the runs of a pass, and the optimiser that moves them."""

    @property
    def counts(self) -> list[int]:
        """How many numbers each run trains."""

    def attached(self) -> AbstractContextManager[Choose]:
        """Within the context the model computes with the parameters.

        The context gives a function that takes, before each forward, the number of the run of every row.
        """

    def zero_gradient(self) -> None:
        """Forget the gradients of the step before."""

    def step(self, multipliers: Sequence[float], active: Sequence[bool]) -> None:
        """Clip the gradients and move the parameters of every active run.

        Args:
            multipliers: The share of its peak learning rate for each run.
            active: Which runs take a step; the others stay exactly as they are.
        """

    def finite(self, run: int) -> bool:
        """Whether no parameter of a run is NaN or infinite."""

    def keep(self, run: int, head: Mapping[str, Tensor], *, last: bool) -> None:
        """Keep a run's parameters as the best so far.

        Args:
            head: What is kept in place of the head's parameters of these names.
            last: The run takes no step any more.
        """

    def best(self, run: int) -> TrainedValues:
        """What was kept of a run."""
