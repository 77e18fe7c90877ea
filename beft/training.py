"""Train bias deltas and a head over one frozen base.

``fit`` takes any number of runs over the same data and base. Each run owns its seed, data order, optimiser state,
gradient clipping and checkpoint.
"""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from beft.bank import Bank
from beft.checkpoint import Checkpoint, random_state
from beft.classifier import Classifier
from beft.encoding import Encoded, sorted_batches, training_batches
from beft.errors import BeftError, InputError
from beft.settings import TrainingSettings
from beft.sites import BiasSite

log = logging.getLogger("beft.training")

CHECKPOINT_SECONDS = 30.0
"""The longest time that a killed run has to train again."""

Metric = Callable[[np.ndarray, np.ndarray], float]
"""From probabilities [rows, labels] and labels [rows] to a number, more is better."""


@dataclass(frozen=True)
class LabelledRows:
    """Encoded rows and their labels, int64, of shape [rows]."""

    encoded: Encoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class Run:
    """One training: which sites, from which seed, with which settings.

    Attributes:
        name: A name for logs, unique among the runs of one ``fit``.
        sites: The bias sites that are trained; none trains the head alone.
        head: Names of the head's trained parameters.
        seed: Decides data order and dropout.
        select: ``best`` keeps the epoch with the best dev metric (lower dev loss on a tie, then the earlier epoch),
            ``last`` the last one.
        initial_head: Where the head's parameters start; those not named start as the model has them.
    """

    name: str
    sites: tuple[BiasSite, ...]
    head: tuple[str, ...]
    seed: int
    settings: TrainingSettings
    select: str = "best"
    initial_head: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """What a run trained, exactly as it is to be saved, and how it went.

    Attributes:
        deltas: Trained minus original bias, fp32 or wider, [width] a site.
        head: The head's trained parameters by their names in the model.
        history: A record an epoch: epoch, step, train_loss, and dev_loss and dev_metric where there is a dev split.
        best_epoch: The epoch that ``deltas`` and ``head`` were taken from.
        steps: Optimiser steps of the whole run.
        steps_here: Of these, the steps made by this call; fewer when a checkpoint was continued.
        seconds: Wall time of this call's training.
        peak_memory: Bytes: of the GPU, or the process's greatest resident size on a CPU.
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


def fit(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    *,
    metric: Metric,
    checkpoints: Path | None = None,
    progress: Callable[[str], None] = log.info,
) -> list[RunResult]:
    """Train every run; the base is left bit for bit as it was.

    Args:
        dev: Chooses the epoch; None only for runs that select ``last``.
        metric: The dev metric.
        checkpoints: A folder in which interrupted runs are found and continued.
        progress: Takes one line of text at a time.

    Raises:
        InputError: Two runs of one name, a run that trains nothing, or ``best`` without a dev split.
        BeftError: The loss is no longer a number.
    """
    if len({run.name for run in runs}) != len(runs):
        raise InputError("two runs have the same name")
    for run in runs:
        if not run.sites and not run.head:
            raise InputError(f"run {run.name!r} trains neither a bias nor the head")
        if run.select == "best" and dev is None:
            raise InputError(f"run {run.name!r} selects its epoch on dev, but there is no dev split")
    return [_Training(classifier, train, dev, run, metric, checkpoints, progress).result() for run in runs]


def peak_memory(device: torch.device) -> int:
    """Bytes: the GPU's greatest allocation, or the process's greatest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Training:
    """One run from its first step, or from its checkpoint, to its result."""

    def __init__(
        self,
        classifier: Classifier,
        train: LabelledRows,
        dev: LabelledRows | None,
        run: Run,
        metric: Metric,
        checkpoints: Path | None,
        progress: Callable[[str], None],
    ) -> None:
        self.classifier, self.train, self.dev, self.run = classifier, train, dev, run
        self.metric, self.progress = metric, progress
        self.path = checkpoints / f"{run.name}.safetensors" if checkpoints else None
        self.batches_per_epoch = -(-len(train) // run.settings.batch_size)
        self.total_steps = self.batches_per_epoch * run.settings.epochs

        named = dict(classifier.model.named_parameters())
        dtype = torch.float64 if next(iter(named.values())).dtype == torch.float64 else torch.float32
        device = classifier.device
        self.deltas = {site: torch.zeros(site.width, dtype=dtype, device=device) for site in run.sites}
        start = {name: run.initial_head.get(name, named[name]) for name in run.head}
        self.head = {name: value.detach().to(device, dtype, copy=True) for name, value in start.items()}
        self.parameters = {f"bias/{site.name}": delta for site, delta in self.deltas.items()}
        self.parameters |= {f"head/{name}": value for name, value in self.head.items()}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        head_rate = run.settings.head_learning_rate or run.settings.learning_rate
        groups = [
            {"params": list(self.deltas.values()), "peak": run.settings.learning_rate},
            {"params": list(self.head.values()), "peak": head_rate},
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], eps=run.settings.adam_epsilon, weight_decay=0.0
        )
        self.state = Checkpoint(identity=self._identity())

    def _identity(self) -> dict[str, Any]:
        return {
            "name": self.run.name,
            "sites": [site.name for site in self.run.sites],
            "head": list(self.run.head),
            "seed": self.run.seed,
            "settings": self.run.settings.model_dump(mode="json"),
            "select": self.run.select,
            "lengths": self.train.encoded.lengths.tolist(),
            "labels": self.train.labels.tolist(),
        }

    def _rate(self, step: int) -> float:
        """The share of the learning rate at a step, from 0: a linear rise, then constant or a linear fall to zero."""
        warmup = int(self.run.settings.warmup_fraction * self.total_steps)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.run.settings.schedule == "constant":
            return 1.0
        return max(0.0, (self.total_steps - step) / max(1, self.total_steps - warmup))

    def result(self) -> RunResult:
        settings = self.run.settings
        # Dropout draws from torch's generator of the process: it is the run's own from here on.
        torch.manual_seed(self.run.seed)
        self._resume()
        first_step, began = self.state.step, time.monotonic()
        trainable = sum(parameter.numel() for parameter in self.parameters.values())
        self.progress(
            f"{self.run.name}: {trainable:,} trainable parameters, {len(self.train)} rows, {settings.epochs} epochs, "
            f"{self.total_steps} steps" + (f", continued at step {first_step}" if first_step else "")
        )
        try:
            with Bank(self.classifier.model, self.deltas, self.head):
                for epoch in range(self.state.epoch, settings.epochs + 1):
                    self._epoch(epoch, began, first_step)
        finally:
            self.classifier.eval()
        best = self._best_epoch()
        tensors = {name: self.state.tensors[f"best/{name}"] for name in self.parameters}
        return RunResult(
            run=self.run,
            deltas={site: tensors[f"bias/{site.name}"].cpu() for site in self.run.sites},
            head={name: tensors[f"head/{name}"].cpu() for name in self.run.head},
            history=self.state.history,
            best_epoch=best,
            steps=self.state.step,
            steps_here=self.state.step - first_step,
            seconds=time.monotonic() - began,
            peak_memory=peak_memory(self.classifier.device),
        )

    def _epoch(self, epoch: int, began: float, first_step: int) -> None:
        batches = training_batches(
            self.train.encoded.lengths, self.run.settings.batch_size, seed=self.run.seed, epoch=epoch
        )
        self.classifier.train(self.run.settings.dropout)
        saved = told = time.monotonic()
        for number, rows in enumerate(batches[self.state.batch :], start=self.state.batch + 1):
            self.state.loss_sum += self._step(rows) * len(rows)
            self.state.batch, self.state.step = number, self.state.step + 1
            now = time.monotonic()
            if now - saved > CHECKPOINT_SECONDS:
                self._save()
                saved = now
            done = self.state.step - first_step
            if now - told > 10 or done == 10:
                left = (now - began) / done * (self.total_steps - self.state.step)
                self.progress(f"{self.run.name}: step {self.state.step}/{self.total_steps}, about {left:.0f} s left")
                told = now
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": self.state.step,
            "train_loss": self.state.loss_sum / len(self.train),
        }
        if self.dev is not None:
            record["dev_loss"], record["dev_metric"] = self._evaluate(self.dev)
        self.state.history.append(record)
        if self._best_epoch() == epoch:
            for name, parameter in self.parameters.items():
                self.state.tensors[f"best/{name}"] = parameter.detach().clone()
        self.state.epoch, self.state.batch, self.state.loss_sum = epoch + 1, 0, 0.0
        self._save()
        numbers = ", ".join(f"{key} {value:.4f}" for key, value in record.items() if isinstance(value, float))
        self.progress(f"{self.run.name}: epoch {epoch}/{self.run.settings.epochs}, {numbers}")

    def _step(self, rows: np.ndarray) -> float:
        batch = self.train.encoded.batch(rows, self.classifier.device)
        labels = torch.from_numpy(self.train.labels[rows]).to(self.classifier.device)
        loss = functional.cross_entropy(self.classifier(batch), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise BeftError(
                f"{self.run.name}: the loss is {value} at step {self.state.step + 1}; a lower train.learning_rate "
                "or base.precision fp32 usually mends it"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.run.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate(self.state.step)
        self.optimizer.step()
        return value

    @torch.no_grad()
    def _evaluate(self, rows: LabelledRows) -> tuple[float, float]:
        self.classifier.eval()
        logits = torch.empty(len(rows), len(self.classifier.labels), dtype=torch.float64)
        for batch in sorted_batches(rows.encoded.lengths, 64):
            logits[torch.from_numpy(batch)] = (
                self.classifier(rows.encoded.batch(batch, self.classifier.device)).double().cpu()
            )
        loss = float(functional.cross_entropy(logits, torch.from_numpy(rows.labels)))
        return loss, float(self.metric(torch.softmax(logits, -1).numpy(), rows.labels))

    def _best_epoch(self) -> int:
        if self.run.select == "last":
            return int(self.state.history[-1]["epoch"])
        best = max(self.state.history, key=lambda record: (record["dev_metric"], -record["dev_loss"], -record["epoch"]))
        return int(best["epoch"])

    def _moments(self) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
        for name, parameter in self.parameters.items():
            yield name, parameter, self.optimizer.state[parameter]

    def _save(self) -> None:
        if self.path is None:
            return
        kept = {name: value for name, value in self.state.tensors.items() if name.startswith("best/")}
        for name, parameter, moments in self._moments():
            kept[name] = parameter
            kept |= {f"adam.{key}/{name}": value for key, value in moments.items()}
        kept["random/cpu"] = random_state()
        if self.classifier.device.type == "cuda":
            kept["random/cuda"] = torch.cuda.get_rng_state(self.classifier.device)
        self.state.tensors = kept
        self.state.write(self.path)

    def _resume(self) -> None:
        found = Checkpoint.read(self.path, self.state.identity) if self.path else None
        if found is None:
            return
        self.state = found
        with torch.no_grad():
            for name, parameter, _ in self._moments():
                parameter.copy_(found.tensors[name])
        for name, parameter in self.parameters.items():
            device = self.classifier.device
            # Adam counts its steps on the CPU whatever the device of the parameter.
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if (value := found.tensors.get(f"adam.{key}/{name}")) is not None
            }
        torch.set_rng_state(found.tensors["random/cpu"])
        if "random/cuda" in found.tensors:
            torch.cuda.set_rng_state(found.tensors["random/cuda"], self.classifier.device)
