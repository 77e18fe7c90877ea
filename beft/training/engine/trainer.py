"""The training loop. One pass: many runs over one base, each step one forward and one backward for all of them.

At each step every run that is still alive gives its own next batch. The rows of all batches go through the base
together, each with its run's vectors; the loss is the sum over runs of each run's mean over its examples (over their
words, where words have tags), each times its class's weight, so that a run's gradient is what it would be alone.
Clipping, optimiser state, schedule, dev metric and early stop are each run's own. What is trained, biases and heads or
weights of the base, is the business of the pass's ``Parameters``.
"""

import hashlib
import time
from collections.abc import Sequence

import numpy as np
import torch

from beft.encoding.tokenization import parts_of_like_length
from beft.inference.generation import Choose
from beft.inference.predictions import measure_runs
from beft.inference.runs import FailedRun, LabelledRows, Metric, Run, RunResult, diverged, peak_memory
from beft.models.classifier import Classifier
from beft.process_state import seeded
from beft.training.engine.activation_checkpointing import activation_checkpointing
from beft.training.engine.checkpoint import PassCheckpoint, RunState
from beft.training.engine.parameters import Parameters
from beft.training.engine.progress import Progress
from beft.training.engine.schedule import chosen_epoch, lr_multiplier
from beft.training.objectives.batches import run_batches, run_weights, steps_of_epoch
from beft.training.objectives.fitted_heads import FittedHead, fit_heads
from beft.training.objectives.joint_losses import joint_losses

CHECKPOINT_SECONDS = 30.0
"""The longest time that a killed pass has to train again."""


class TrainingPass:
    """Some runs from their first step, or from their checkpoint, to their results.

    Args:
        classifier: The base with a head.
        train: The rows of every run.
        dev: Chooses each run's epoch.
        runs: What is trained.
        metric: The dev metric.
        parameters: What the runs train, in the order of the runs.
        checkpoint: In which an interrupted pass is found and continued.
        progress: Takes what there is to say.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: LabelledRows,
        dev: LabelledRows | None,
        runs: Sequence[Run],
        metric: Metric,
        *,
        parameters: Parameters,
        checkpoint: PassCheckpoint | None = None,
        progress: Progress,
    ) -> None:
        self.classifier, self.train, self.dev, self.runs = classifier, train, dev, tuple(runs)
        self.metric, self.parameters, self.checkpoint, self.progress = metric, parameters, checkpoint, progress
        settings = [run.settings for run in runs]
        self.positions = [RunState() for _ in runs]
        self.batches: list[list[np.ndarray]] = [[] for _ in runs]
        self.steps_of_epoch = [steps_of_epoch(train, run) for run in runs]
        self.units = classifier.problem_type.loss_units(train.labels)
        self.example_weights = [run_weights(train, run, classifier.problem_type) for run in runs]
        self.total_steps = [steps * one.epochs for steps, one in zip(self.steps_of_epoch, settings, strict=True)]

    def results(self) -> list[RunResult | FailedRun]:
        """Train what is left to train; a run whose loss becomes NaN or infinite stops, and the others go on."""
        with seeded(self._dropout_seed(), self.classifier.device):  # which dropout draws from
            if self.checkpoint is not None and (found := self.checkpoint.read()) is not None:
                self.positions = found
            return self._run_all()

    def _run_all(self) -> list[RunResult | FailedRun]:
        first, began = [position.step for position in self.positions], time.monotonic()
        self.progress.start(self.runs, self.total_steps, first, len(self.train), self.parameters.counts)
        saved = began
        try:
            recomputed = self.runs[0].settings.activation_checkpointing
            with (
                activation_checkpointing(self.classifier.model, on=recomputed),
                self.parameters.attached() as choose,
            ):
                while alive := [run for run, position in enumerate(self.positions) if not position.stopped]:
                    ended = self._step(choose, alive)
                    if ended:
                        self._end_epoch(choose, ended)
                    failed = any(self.positions[run].failed for run in alive)
                    if ended or failed or time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self._save()
                        saved = time.monotonic()
        finally:
            self.classifier.eval()
            self.progress.stop()
        seconds = time.monotonic() - began
        here = [position.step - step for position, step in zip(self.positions, first, strict=True)]
        return [self._result(run, here[run], seconds * here[run] / max(1, sum(here))) for run in range(len(self.runs))]

    def _result(self, run: int, steps_here: int, seconds: float) -> RunResult | FailedRun:
        position, spec = self.positions[run], self.runs[run]
        if position.failed is not None:
            return FailedRun(spec, position.failed)
        best = self.parameters.best(run)
        return RunResult(
            run=spec,
            deltas=best.deltas,
            head=best.head,
            weights=best.weights,
            history=position.history,
            best_epoch=chosen_epoch(spec.select, position.history),
            steps=position.step,
            steps_here=steps_here,
            seconds=seconds,
            peak_memory=peak_memory(self.classifier.device),
        )

    def _step(self, choose: Choose, alive: Sequence[int]) -> list[int]:
        """One step of every run that is alive; the runs whose epoch it ended."""
        parts = [self._next_rows(run) for run in alive]
        rows = np.concatenate(parts)
        device = self.classifier.device
        sizes = torch.tensor([len(part) for part in parts])
        runs = torch.repeat_interleave(torch.tensor(alive), sizes)
        weights = np.concatenate([self.example_weights[run][part] for run, part in zip(alive, parts, strict=True)])
        units = torch.tensor([self._units(part) for part in parts], dtype=torch.float64)
        shares = torch.repeat_interleave(1 / units, sizes) * torch.from_numpy(weights)
        losses = torch.zeros(len(self.runs), dtype=torch.float64)
        self.classifier.train(self.runs[0].settings.dropout)
        self.parameters.zero_gradient()
        if any(self.runs[run].settings.contrastive for run in alive):
            of_alive = joint_losses(
                self.classifier, self.train, self.runs, rows, runs, shares, self._at_once(rows), choose
            )
            torch.stack(list(of_alive.values())).sum().backward()
            for run, loss in of_alive.items():
                losses[run] = loss.detach().double().cpu()
        else:
            for chosen in self._at_once(rows):
                sequences = self.train.sizes_of(rows[chosen])
                choose(runs[chosen].repeat_interleave(sequences))
                outputs = self.classifier(self.train.batch(rows[chosen], device))
                targets = self.train.targets(rows[chosen]).to(device)
                each = self.classifier.problem_type.losses(outputs, targets, sequences)
                (each * shares[chosen].to(each)).sum().backward()
                losses.index_add_(0, runs[chosen], each.detach().double().cpu() * shares[chosen])
        for run in alive:
            if not np.isfinite(float(losses[run])):
                self._fail(run, f"the loss is {float(losses[run])} at step {self.positions[run].step + 1}")
        active = [run in alive and self.positions[run].failed is None for run in range(len(self.runs))]
        self.parameters.step([self._multiplier(run) if one else 0.0 for run, one in enumerate(active)], active)
        ended = []
        for run, part in zip(alive, parts, strict=True):
            position = self.positions[run]
            if position.failed is not None:
                continue
            position.step += 1
            position.batch += 1
            position.loss_sum += float(losses[run]) * self._units(part)
            if position.batch == self.steps_of_epoch[run]:
                ended.append(run)
        steps = [position.step for position in self.positions]
        if any(active):
            self.progress.step(len(rows), steps, sum(active), float(losses[torch.tensor(active)].mean()))
        return ended

    def _units(self, rows: np.ndarray) -> float:
        """What the mean loss of some rows divides by: how many they are, or their words."""
        return max(1.0, float(self.units[rows].sum()))

    def _next_rows(self, run: int) -> np.ndarray:
        """The rows of a run's next batch."""
        position, spec = self.positions[run], self.runs[run]
        if not self.batches[run]:
            self.batches[run] = run_batches(self.train, spec, position.epoch)
        return self.batches[run][position.batch]

    def _at_once(self, rows: np.ndarray) -> list[np.ndarray]:
        """Which of a step's rows are computed at once: all, or in parts of like length that add up to one gradient."""
        settings = [run.settings for run in self.runs]
        lengths = self.train.lengths[rows]
        min_rows = max(one.batch_size for one in settings)
        return parts_of_like_length(lengths, min_rows=min_rows, max_rows=settings[0].micro_batch_size)

    def _fail(self, run: int, what: str) -> None:
        """End a run that cannot go on."""
        position, spec = self.positions[run], self.runs[run]
        position.failed, position.stopped = diverged(spec, what), True
        self.progress.say(position.failed)

    def _multiplier(self, run: int) -> float:
        """The share of the peak learning rate at a run's next step."""
        return lr_multiplier(self.runs[run].settings, self.positions[run].step, self.total_steps[run])

    def _end_epoch(self, choose: Choose, runs: Sequence[int]) -> None:
        """Measure the runs whose epoch ended, keep the best parameters, and stop the runs that are done."""
        heads = self._fitted_heads(choose, runs)
        others = [run for run in runs if not self.runs[run].settings.contrastive]
        measured_by_run = {run: head.on_dev for run, head in heads.items()} | self._on_dev(choose, others)
        for run in runs:
            position, spec, measured = self.positions[run], self.runs[run], measured_by_run.get(run, {})
            if not np.isfinite(measured.get("dev_loss", 0.0)):
                self._fail(run, f"the dev loss is {measured['dev_loss']} after epoch {position.epoch}")
                continue
            if not self.parameters.finite(run):
                self._fail(run, f"a trained parameter is NaN or infinite after epoch {position.epoch}")
                continue
            record = {
                "epoch": position.epoch,
                "step": position.step,
                "train_loss": position.loss_sum / sum(map(self._units, self.batches[run])),
                **measured,
            }
            position.history.append(record)
            best = chosen_epoch(spec.select, position.history)
            patience = spec.settings.patience
            spent = patience is not None and spec.select == "best" and position.epoch - best >= patience
            position.stopped = spent or position.epoch == spec.settings.epochs
            if best == position.epoch and (position.stopped or spec.select == "best"):
                self.parameters.keep(run, heads[run].values if run in heads else {}, last=position.stopped)
            position.epoch, position.batch, position.loss_sum = position.epoch + 1, 0, 0.0
            self.batches[run] = []
            self.progress.epoch(spec, record)

    def _on_dev(self, choose: Choose, runs: Sequence[int]) -> dict[int, dict[str, float]]:
        """Dev loss and dev metric of some runs, all in one pass over dev; nothing without dev."""
        if self.dev is None or not runs:
            return {}
        found = measure_runs(self.classifier, self.dev, self.metric, runs, choose=choose)
        return dict(zip(runs, found, strict=True))

    def _fitted_heads(self, choose: Choose, runs: Sequence[int]) -> dict[int, FittedHead]:
        """The heads of those runs whose loss does not train one, where this epoch may count."""
        fitted = [
            run
            for run in runs
            if (spec := self.runs[run]).settings.contrastive
            and (spec.select == "best" or self.positions[run].epoch == spec.settings.epochs)
        ]
        if not fitted:
            return {}
        heads = fit_heads(self.classifier, self.train, self.dev, self.metric, self.runs, fitted, choose)
        return dict(zip(fitted, heads, strict=True))

    def _dropout_seed(self) -> int:
        """The run's own seed, or one made of all seeds: the masks of a pass are drawn for all its rows together."""
        if len(self.runs) == 1:
            return self.runs[0].seed
        seeds = ",".join(str(run.seed) for run in self.runs)
        return int.from_bytes(hashlib.sha256(seeds.encode()).digest()[:4], "big")

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.write(self.positions)
