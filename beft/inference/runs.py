"""What a training is asked for, and what it gives: rows, runs, results."""

import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beft.encoding.examples import LabelledRows as LabelledRows
from beft.errors import TrainingError
from beft.sites.site import BiasSite
from beft.training_settings import TrainingSettings

Metric = Callable[[Any, Any], float]
"""From predictions (``beft.encoding.examples.Predictions``) and ``LabelledRows.labels`` to a number, more is better.

A checkpoint knows it by its attribute ``name`` where it has one, else by its own qualified name.
"""


@dataclass(frozen=True)
class Run:
    """One training: which sites, from which seed, with which settings.

    Attributes:
        name: A name for logs, unique among the runs of one ``fit``.
        sites: The bias sites that are trained; none trains the head alone.
        head: Names of the head's trained parameters.
        seed: Decides data order and dropout.
        select: ``best`` keeps the epoch with the best dev metric (lower dev loss on a tie, then the earlier epoch),
            ``last`` the last one; with a contrastive loss only that one is then measured, for the head is fitted first.
        initial_head: Where the head's parameters start; those not named start as the model has them.
        rows: Numbers of the train rows that it learns from; None: all of them.
    """

    name: str
    sites: tuple[BiasSite, ...]
    head: tuple[str, ...]
    seed: int
    settings: TrainingSettings
    select: str = "best"
    initial_head: Mapping[str, Tensor] = field(default_factory=dict)
    rows: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WeightsState:
    """Values of trained weights of a base.

    Attributes:
        values: The parameter's name -> its values, fp32 or wider: of its shape, or [weights] where only some of its
            weights are trained.
        indices: The parameter's name -> which of its weights are trained, int64, [weights], as positions in the
            flattened parameter; empty when whole parameters are.
    """

    values: dict[str, Tensor]
    indices: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many single weights are trained."""
        return sum(value.numel() for value in self.values.values())


@dataclass(frozen=True)
class RunResult:
    """What a run trained, exactly as it is to be saved, and how it went.

    Attributes:
        run: What was asked for.
        deltas: Trained minus original bias, fp32 or wider, [width] a site.
        head: The head's trained parameters by their names in the model.
        history: A record an epoch: epoch, step, train_loss, and dev_loss and dev_metric where it was measured on dev.
        best_epoch: The epoch that ``deltas`` and ``head`` were taken from.
        steps: Optimiser steps of the whole run.
        steps_here: Of these, the steps made by this call; fewer when a checkpoint was continued.
        seconds: Wall time of this call's training; of a pass of many runs, the run's share by steps.
        peak_memory: Bytes: of the GPU, or the process's greatest resident size on a CPU.
        trials: Where the learning rate was chosen on dev: what each one gave (learning_rate, dev_metric, dev_loss,
            best_epoch; of one that failed learning_rate and failed, its reason); ``seconds`` is then what all of them
            took, and ``steps_here`` the fewest of any.
        weights: Trained weights of the base, on the CPU; None where biases and the head alone are trained.
    """

    run: Run
    deltas: dict[BiasSite, Tensor]
    head: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    steps: int
    steps_here: int
    seconds: float
    peak_memory: int
    trials: tuple[dict[str, Any], ...] = ()
    weights: WeightsState | None = None

    @property
    def head_parameters(self) -> int:
        """How many numbers of the head are trained."""
        return sum(value.numel() for value in self.head.values())


@dataclass(frozen=True)
class FailedRun:
    """A training that has no result.

    Attributes:
        reason: Why: its loss or its parameters became NaN or infinite, or it does not fit into memory.
    """

    run: Run
    reason: str


def diverged(run: Run, what: str) -> str:
    """Why a run failed whose numbers became NaN or infinite, and what to do."""
    return (
        f"{run.name}: {what}; a learning_rate below {run.settings.learning_rate:g} usually fixes it, or "
        "base.precision: fp32"
    )


def finished(result: "RunResult | FailedRun") -> "RunResult":
    """The result of a run that was finished.

    Raises:
        TrainingError: It failed; the message is the reason.
    """
    if isinstance(result, FailedRun):
        raise TrainingError(result.reason)
    return result


def peak_memory(device: torch.device) -> int:
    """Bytes: the greatest allocation of each GPU, added up, or the process's greatest resident size."""
    if device.type == "cuda":
        return sum(int(torch.cuda.max_memory_allocated(each)) for each in range(torch.cuda.device_count()))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
