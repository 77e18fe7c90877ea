"""Train weights of a base: one run, as the bias runs train.

The order of the rows, the batches, the schedule, clipping, AdamW, dropout, the loss, the dev evaluation and the choice
of the epoch are those of ``fit``, and the head is trained as there: what differs is what is trained.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.bank.first_token import first_token_alone, reads_first_token_alone
from beft.encoding.tokenization import parts_of_like_length, training_batches
from beft.errors import InputError, TrainingError
from beft.inference.predictions import measure_runs
from beft.inference.runs import LabelledRows, Metric, Run, diverged, peak_memory
from beft.models.classifier import Classifier
from beft.process_state import seeded, with_own_threads
from beft.training.engine.activation_checkpointing import activation_checkpointing
from beft.training.engine.optimizer import BETAS
from beft.training.engine.progress import Progress
from beft.training.engine.schedule import chosen_epoch, lr_multiplier
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, WeightsState, wide

log = logging.getLogger("beft.training.engine.fit")


@dataclass(frozen=True)
class WeightsResult:
    """What was trained, and how it went.

    Attributes:
        run: What was asked for.
        state: The trained weights of the best epoch, on the CPU.
        head: The head's trained parameters of the best epoch by their names in the model.
        history: A record an epoch: epoch, step, train_loss, and dev_loss and dev_metric where there is a dev split.
        best_epoch: The epoch that ``state`` and ``head`` were taken from.
        steps: Optimiser steps.
        model_parameters: Parameters of the model, head included, without what a method put beside them.
        seconds: Wall time of the training.
        peak_memory: Bytes: of the GPU, or the process's greatest resident size on a CPU.
        tried: Where the learning rate was chosen on dev: what each one gave, as in ``beft.inference.runs.RunResult``.
    """

    run: Run
    state: WeightsState
    head: dict[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    steps: int
    model_parameters: int
    seconds: float
    peak_memory: int
    tried: tuple[dict[str, Any], ...] = ()

    @property
    def head_parameters(self) -> int:
        """Trained numbers of the head."""
        return sum(value.numel() for value in self.head.values())

    @property
    def trainable_parameters(self) -> int:
        """Trained numbers, head included."""
        return self.state.parameters + self.head_parameters

    @property
    def share(self) -> float:
        """Trained numbers for each parameter of the model."""
        return self.trainable_parameters / self.model_parameters


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
) -> WeightsResult:
    """Train weights and the head; the base is left bit for bit as it was (unless the method gives it up).

    Args:
        dev: Chooses the epoch; None only for a run that selects ``last``.
        run: Seed, settings, head and choice of the epoch; it names no bias site. The settings' ``learning_rate`` is
            that of the weights.
        method: Which weights.
        metric: The dev metric.
        progress: Takes one line of text at a time; on a terminal a bar is shown beside.

    Raises:
        InputError: A run with bias sites, ``best`` without a dev split, or a method that does not fit the base or the
            settings.
        TrainingError: Its loss or its parameters become NaN or infinite.
    """
    if run.sites:
        raise InputError(f"run {run.name!r} names bias sites; a training of weights takes none, use fit for biases")
    if run.select == "best" and dev is None:
        raise InputError(f"run {run.name!r} selects its epoch on dev, but there is no dev split")
    if run.settings.activation_checkpointing and not method.recomputable:
        raise InputError(f"{method.name} fills a cache once, so train.activation_checkpointing must be false for it")
    began = time.monotonic()
    model_parameters = sum(parameter.numel() for parameter in classifier.model.parameters())
    shortest = train.encoded.batch([int(train.encoded.lengths.argmin())], classifier.device)
    start = method.start(classifier, run.head, shortest, run.seed)
    named = dict(classifier.model.named_parameters())
    head = {
        name: run.initial_head.get(name, named[name]).detach().to(named[name].device, wide(named[name]), copy=True)
        for name in run.head
    }
    longest = np.argsort(-train.encoded.lengths, kind="stable")[:2]
    first_token = reads_first_token_alone(classifier, train.encoded.batch(longest, classifier.device))
    try:
        with (
            first_token_alone(classifier.model, on=first_token),
            activation_checkpointing(classifier.model, on=run.settings.activation_checkpointing),
            method.attached(classifier, start) as weights,
            Bank(classifier.model, {}, {name: value.requires_grad_(True) for name, value in head.items()}),
        ):
            training = _Training(classifier, train, dev, run, weights, head, metric, Progress(progress))
            training.run_all()
    finally:
        classifier.eval()
    return WeightsResult(
        run=run,
        state=WeightsState(training.best, {name: index.cpu() for name, index in start.indices.items()}),
        head=training.best_head,
        history=training.history,
        best_epoch=chosen_epoch(run.select, training.history),
        steps=training.steps,
        model_parameters=model_parameters,
        seconds=time.monotonic() - began,
        peak_memory=peak_memory(classifier.device),
    )


@contextmanager
def attached_weights(classifier: Classifier, method: WeightMethod, result: WeightsResult) -> Iterator[Classifier]:
    """Within the context the classifier predicts with what was trained; afterwards it is bit for bit as it was."""
    with method.attached(classifier, result.state):
        named = dict(classifier.model.named_parameters())
        head = {name: value.to(named.get(name, value).device) for name, value in result.head.items()}
        with Bank(classifier.model, {}, head):
            yield classifier


class _Training:
    """The steps of one run, over weights and a head that are attached to its classifier."""

    def __init__(
        self,
        classifier: Classifier,
        train: LabelledRows,
        dev: LabelledRows | None,
        run: Run,
        weights: list[TrainedWeights],
        head: dict[str, Tensor],
        metric: Metric,
        progress: Progress,
    ) -> None:
        self.classifier, self.train, self.dev, self.run = classifier, train, dev, run
        self.weights, self.head, self.metric, self.progress = weights, head, metric, progress
        settings = run.settings
        self.values = [one.value for one in weights] + list(head.values())
        self.peaks = (settings.learning_rate, settings.head_learning_rate or settings.learning_rate)
        self.optimizer = torch.optim.AdamW(
            [{"params": [one.value for one in weights]}, {"params": list(head.values())}],
            betas=BETAS,
            eps=settings.adam_epsilon,
            weight_decay=0.0,
            fused=True,
        )
        self.total = settings.epochs * -(-len(train) // settings.batch_size)
        self.steps = 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Tensor] = {}
        self.best_head: dict[str, Tensor] = {}

    def run_all(self) -> None:
        """Train epoch after epoch, to the last one or until patience is spent."""
        trained = sum(value.numel() for value in self.values)
        self.progress.start([self.run], [self.total], [0], len(self.train), [trained])
        try:
            with seeded(self.run.seed, self.classifier.device):  # which dropout draws from
                for epoch in range(1, self.run.settings.epochs + 1):
                    if self._epoch(epoch):
                        break
        finally:
            self.progress.stop()

    def _epoch(self, epoch: int) -> bool:
        """Train and measure one epoch, and keep it if it is the best; whether it is the last one."""
        run, settings = self.run, self.run.settings
        loss = 0.0
        lengths = self.train.lengths
        for rows in training_batches(lengths, settings.batch_size, seed=run.seed, epoch=epoch):
            of_step = self._step(rows)
            loss += of_step * len(rows)
            self.progress.step(len(rows), [self.steps], 1, of_step)
        record = {"epoch": epoch, "step": self.steps, "train_loss": loss / len(self.train), **self._measure()}
        self.history.append(record)
        self.progress.epoch(run, record)
        best = chosen_epoch(run.select, self.history)
        spent = settings.patience is not None and run.select == "best" and epoch - best >= settings.patience
        last = spent or epoch == settings.epochs
        if last:
            self.optimizer.state.clear()  # the moments are twice the weights, and are done with
        if best == epoch and (last or run.select == "best"):
            self.best = {one.name: one.value.detach().to("cpu", copy=True) for one in self.weights}
            self.best_head = {name: value.detach().to("cpu", copy=True) for name, value in self.head.items()}
        return last

    def _step(self, rows: np.ndarray) -> float:
        """One step on the rows of a batch; their mean loss."""
        settings, device = self.run.settings, self.classifier.device
        self.classifier.train(settings.dropout)
        total = 0.0
        lengths = self.train.lengths[rows]
        for part in parts_of_like_length(lengths, least=settings.batch_size, most=settings.micro_batch_size):
            outputs = self.classifier(self.train.batch(rows[part], device))
            targets = self.train.targets(rows[part]).to(device)
            each = self.classifier.shape.losses(outputs, targets, self.train.sizes_of(rows[part]))
            loss = each.sum() / len(rows)
            loss.backward()
            total += float(loss.detach())
        if not np.isfinite(total):
            raise TrainingError(diverged(self.run, f"the loss is {total} at step {self.steps + 1}"))
        torch.nn.utils.clip_grad_norm_(self.values, settings.clip_norm)
        factor = lr_multiplier(settings, self.steps, self.total)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for one in self.weights:
            one.write()
        self.steps += 1
        return total

    def _measure(self) -> dict[str, float]:
        """Dev loss and dev metric; nothing where there is no dev split."""
        if not all(torch.isfinite(value).all() for value in self.values):
            raise TrainingError(diverged(self.run, f"a trained parameter is NaN or infinite at step {self.steps}"))
        found = {} if self.dev is None else measure_runs(self.classifier, self.dev, self.metric)[0]
        if not np.isfinite(found.get("dev_loss", 0.0)):
            raise TrainingError(diverged(self.run, f"the dev loss is {found['dev_loss']} at step {self.steps}"))
        return found
