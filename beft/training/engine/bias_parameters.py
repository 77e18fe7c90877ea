"""Bias deltas and heads of many runs: a row of one matrix a run, moved by one optimiser."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from beft.bank.bank import Bank
from beft.inference.generation import Choose
from beft.inference.runs import Run
from beft.sites.batch_axis import RowAxis
from beft.training.engine.optimizer import StackedAdamW
from beft.training.engine.parameters import TrainedValues
from beft.training.engine.stack import ParameterStack


class BiasParameters:
    """What runs of bias sites and heads train.

    Args:
        model: The frozen base with a head.
        runs: What is trained.
        axes: Where the modules of the runs' sites keep the rows of a batch; needed for two runs or more.
    """

    def __init__(self, model: nn.Module, runs: Sequence[Run], axes: Mapping[str, RowAxis] | None = None) -> None:
        self._model, self._runs, self._axes = model, tuple(runs), axes
        self._stack = ParameterStack(
            model,
            [run.sites for run in runs],
            [run.head for run in runs],
            [run.initial_head for run in runs],
        )
        settings = [run.settings for run in runs]
        self._optimizer = StackedAdamW(
            self._stack.values,
            epsilon=[one.adam_epsilon for one in settings],
            clip_norm=[one.clip_norm for one in settings],
        )
        self._peaks = self._stack.rates(
            [one.learning_rate for one in settings],
            [one.head_learning_rate or one.learning_rate for one in settings],
        )
        self._best = self._stack.values.clone()

    @property
    def counts(self) -> list[int]:
        """How many numbers each run trains."""
        return [int(count) for count in self._stack.trained.sum(1)]

    @contextmanager
    def attached(self) -> Iterator[Choose]:
        """Within the context the model computes each row with the vectors and the head of its run."""
        with Bank(self._model, self._stack.deltas, self._stack.head, axes=self._axes) as bank:
            yield bank.choose

    def zero_gradient(self) -> None:
        """Forget the gradients of the step before."""
        self._stack.gradient.zero_()

    def step(self, multipliers: Sequence[float], active: Sequence[bool]) -> None:
        """Clip the gradients and move the parameters of every active run; see ``Parameters.step``."""
        gradient = self._stack.gradient
        for run, one in enumerate(active):
            if not one:
                gradient[run] = 0  # of a run that failed it may be NaN, which no learning rate of 0 takes away
        rates = self._peaks * torch.tensor(multipliers, dtype=torch.float64).to(self._peaks)[:, None]
        self._optimizer.step(gradient.mul_(self._stack.trained), rates, active)

    def finite(self, run: int) -> bool:
        """Whether no parameter of a run is NaN or infinite."""
        return bool(torch.isfinite(self._stack.values[run]).all())

    def keep(self, run: int, head: Mapping[str, Tensor], *, last: bool) -> None:
        """Keep a run's parameters as the best so far; see ``Parameters.keep``."""
        self._best[run] = self._stack.values[run]
        for name, value in head.items():
            self._best[run, self._stack.columns(f"head/{name}")] = value.to(self._best).flatten()

    def best(self, run: int) -> TrainedValues:
        """What was kept of a run."""
        named = self._stack.read(run, self._best[run])
        spec = self._runs[run]
        return TrainedValues(
            head={name: named[f"head/{name}"] for name in spec.head},
            deltas={site: named[f"bias/{site.name}"] for site in spec.sites},
        )

    def state(self) -> dict[str, Tensor]:
        """All that an interrupted pass needs to go on: parameters, moments and the best so far."""
        return {
            "values": self._stack.values,
            "best": self._best,
            "mean": self._optimizer.mean,
            "square": self._optimizer.square,
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor], steps: Sequence[int]) -> None:
        """Go on from a ``state``.

        Args:
            steps: The optimiser steps that each run has taken.
        """
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._optimizer.steps = list(steps)
