"""Train weights of a base: one run, by the loop that trains the biases."""

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.bank.first_token import first_token_alone, reads_first_token_alone
from beft.errors import InputError
from beft.inference.generation import Choose
from beft.inference.runs import FailedRun, LabelledRows, Metric, Run, RunResult, WeightsState
from beft.models.classifier import Classifier
from beft.models.memory import is_out_of_memory, out_of_memory_reason
from beft.process_state import with_own_threads
from beft.training.engine.optimizer import BETAS
from beft.training.engine.parameters import TrainedValues
from beft.training.engine.progress import Progress
from beft.training.engine.target_scale import divide_targets, in_unit_of_values
from beft.training.engine.trainer import TrainingPass
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, wide

log = logging.getLogger("beft.training.engine.fit")


@with_own_threads
def fit_weights(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    run: Run,
    method: WeightMethod,
    *,
    metric: Metric,
    progress: Callable[[str], None] = log.info,
) -> RunResult | FailedRun:
    """Train weights and the head; the base is left bit for bit as it was (unless the method gives it up).

    Args:
        dev: Chooses the epoch; None only for a run that selects ``last``.
        run: Seed, settings, head and choice of the epoch; it names no bias site. The settings' ``learning_rate`` is
            that of the weights.
        method: Which weights.
        metric: The dev metric.
        progress: Takes one line of text at a time; on a terminal a bar is shown beside.

    Returns:
        The result, or why there is none: NaN, infinite, or out of memory.

    Raises:
        InputError: A run with bias sites, ``best`` without a dev split, or a method that does not fit the base or the
            settings.
    """
    if run.sites:
        raise InputError(f"run {run.name!r} names bias sites; a training of weights takes none, use fit for biases")
    if run.select == "best" and dev is None:
        raise InputError(f"run {run.name!r} selects its epoch on dev, but there is no dev split")
    if run.settings.activation_checkpointing and not method.recomputable:
        raise InputError(f"{method.name} fills a cache once, so train.activation_checkpointing must be false for it")
    asked = run
    scale, train, dev, [run] = divide_targets(classifier, train, dev, [asked])
    try:
        shortest = train.encoded.batch([int(train.encoded.lengths.argmin())], classifier.device)
        longest = np.argsort(-train.encoded.lengths, kind="stable")[:2]
        start = method.start(classifier, run.head, shortest, run.seed)
        first_token = reads_first_token_alone(classifier, train.encoded.batch(longest, classifier.device))
        with first_token_alone(classifier.model, on=first_token):
            parameters = WeightParameters(classifier, method, start, run)
            [result] = TrainingPass(
                classifier, train, dev, [run], metric, parameters=parameters, progress=Progress(progress)
            ).results()
            return in_unit_of_values(classifier, result, asked, scale)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        exhausted = out_of_memory_reason(error)
    # The error, which held on to what was computed, is gone here.
    gc.collect()
    torch.cuda.empty_cache()
    return FailedRun(asked, f"{run.name}: {exhausted}")


class WeightParameters:
    """Weights of a base, and a head, that one run trains.

    Args:
        method: How the weights are attached to the base.
        start: Where they start.
        run: The run, which names the head's parameters.
    """

    def __init__(self, classifier: Classifier, method: WeightMethod, start: WeightsState, run: Run) -> None:
        self._classifier, self._method, self._start, self._run = classifier, method, start, run
        named = dict(classifier.model.named_parameters())
        self._head = {
            name: run.initial_head.get(name, named[name]).detach().to(named[name].device, wide(named[name]), copy=True)
            for name in run.head
        }
        self._weights: list[TrainedWeights] = []
        self._optimizer: torch.optim.AdamW | None = None
        self._best = TrainedValues(head={})

    @property
    def counts(self) -> list[int]:
        """How many numbers the run trains."""
        return [self._start.parameters + sum(value.numel() for value in self._head.values())]

    @contextmanager
    def attached(self) -> Iterator[Choose]:
        """Within the context the model computes with the weights and the head."""
        classifier, settings = self._classifier, self._run.settings
        head = {name: value.requires_grad_(True) for name, value in self._head.items()}
        with self._method.attached(classifier, self._start) as self._weights, Bank(classifier.model, {}, head):
            self._optimizer = torch.optim.AdamW(
                [{"params": [one.value for one in self._weights]}, {"params": list(head.values())}],
                betas=BETAS,
                eps=settings.adam_epsilon,
                weight_decay=0.0,
                fused=True,
            )
            yield lambda runs: None  # there is but one run

    def zero_gradient(self) -> None:
        """Forget the gradients of the step before."""
        for value in self._values():
            value.grad = None

    def step(self, multipliers: Sequence[float], active: Sequence[bool]) -> None:
        """Clip the gradients and move the weights and the head; see ``Parameters.step``."""
        if not active[0]:
            return
        assert self._optimizer is not None
        settings = self._run.settings
        torch.nn.utils.clip_grad_norm_(self._values(), settings.clip_norm)
        peaks = (settings.learning_rate, settings.head_learning_rate or settings.learning_rate)
        for group, peak in zip(self._optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * multipliers[0]
        self._optimizer.step()
        self.zero_gradient()
        for one in self._weights:
            one.write()

    def finite(self, run: int) -> bool:
        """Whether no weight and no parameter of the head is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self._values())

    def keep(self, run: int, head: Mapping[str, Tensor], *, last: bool) -> None:
        """Keep the weights and the head as the best so far; see ``Parameters.keep``."""
        assert self._optimizer is not None
        if last:
            self._optimizer.state.clear()  # the moments are twice the weights, and are done with
        indices, own = {name: index.cpu() for name, index in self._start.indices.items()}, self._head
        self._best = TrainedValues(
            head={
                name: head.get(name, value).detach().to("cpu", value.dtype, copy=True) for name, value in own.items()
            },
            weights=WeightsState({one.name: one.value.detach().to("cpu", copy=True) for one in self._weights}, indices),
        )

    def best(self, run: int) -> TrainedValues:
        """What was kept."""
        return self._best

    def _values(self) -> list[Tensor]:
        return [*(one.value for one in self._weights), *self._head.values()]


@contextmanager
def attached_weights(classifier: Classifier, method: WeightMethod, result: RunResult) -> Iterator[Classifier]:
    """Within the context the classifier predicts with what was trained; afterwards it is bit for bit as it was."""
    assert result.weights is not None
    with method.attached(classifier, result.weights):
        named = dict(classifier.model.named_parameters())
        head = {name: value.to(named.get(name, value).device) for name, value in result.head.items()}
        with Bank(classifier.model, {}, head):
            yield classifier
