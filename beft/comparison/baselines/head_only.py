"""Head only: the output layer trained on the frozen features that it sees, every candidate of the search at once.

Nothing below the output layer moves, so the base runs once and its features are kept. Training is the target's own
(mini-batches, AdamW, the same schedule and clipping, dev-chosen epoch), NOT the exact optimum of this convex problem: a
fair baseline gets the search that the target gets, stopping early is part of that search, and the exact optimum with a
penalty chosen on dev is what the other baseline, logistic regression, is already. The search is wider than the
target's because it costs seconds: eight learning rates and two lengths by default, the start itself and every epoch a
candidate.

All candidates are rows of one tensor [candidates, outputs, hidden]; the gradient of a linear layer is written out.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

from beft.encoding.examples import LabelledRows
from beft.errors import InputError
from beft.heads.feature_rows import FeatureRows, Features, Floats
from beft.heads.linear import LinearClassifier, Quality, checked
from beft.metrics.registry import known_metric
from beft.problems.class_weights import example_weights
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType
from beft.progress import with_progress
from beft.training.engine.optimizer import StackedAdamW
from beft.training.engine.schedule import lr_multiplier
from beft.training_settings import ClassWeights, TrainingSettings

log = logging.getLogger("beft.comparison")

_EPOCHS = "epochs of the head alone"


@dataclass(frozen=True)
class HeadSearch:
    """What is tried. Every learning rate is tried with every length and every start.

    Attributes:
        learning_rates: Of AdamW.
        epochs: Lengths of training (the schedule's end); within each, the best epoch on dev counts.
        batch_size: Rows of a step.
        schedule: "linear" (to zero) or "constant".
        warmup_fraction: Share of the steps in which the learning rate rises.
        clip_norm: Largest norm of a step's gradient.
        adam_epsilon: Of AdamW.
        weight_decay: Of AdamW, decoupled.
        class_weights: Of the loss.
    """

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    epochs: tuple[int, ...] = (6, 32)
    batch_size: int = 16
    schedule: str = "linear"
    warmup_fraction: float = 0.0
    clip_norm: float = 1.0
    adam_epsilon: float = 1e-6
    weight_decay: float = 0.0
    class_weights: tuple[ClassWeights, ...] = ("none",)

    @classmethod
    def from_training(cls, training: TrainingSettings) -> Self:
        """The target's optimiser, schedule and class weights, its learning rates and length among the ones tried."""
        of_biases = training.learning_rates or (training.learning_rate,)
        of_head = (training.head_learning_rate,) if training.head_learning_rate else ()
        rates = {*cls.learning_rates, *of_biases, *of_head}
        return cls(
            learning_rates=tuple(sorted(rates)),
            epochs=tuple(sorted({training.epochs, max(32, 2 * training.epochs)})),
            batch_size=training.batch_size,
            schedule=training.schedule,
            warmup_fraction=training.warmup_fraction,
            clip_norm=training.clip_norm,
            adam_epsilon=training.adam_epsilon,
            class_weights=(training.class_weights,),
        )

    def candidates(self, starts: Sequence[str]) -> "list[_Candidate]":
        """Everything that is tried from some starts.

        Raises:
            InputError: The search is empty.
        """
        found = [
            _Candidate(start, rate, epochs, weights)
            for start in starts
            for rate in self.learning_rates
            for epochs in self.epochs
            for weights in self.class_weights
        ]
        if not found or min(self.epochs) < 1 or min(self.learning_rates) <= 0:
            raise InputError("head only: a search needs learning rates above 0 and lengths of an epoch or more")
        return found


@dataclass(frozen=True)
class _Candidate:
    """One training of the output layer."""

    start: str
    learning_rate: float
    epochs: int
    class_weights: ClassWeights

    def facts(self) -> dict[str, Any]:
        """What it is, as a JSON value."""
        weights = {} if self.class_weights == "none" else {"class_weights": self.class_weights}
        return {"start": self.start, "learning_rate": self.learning_rate, "epochs": self.epochs, **weights}


def fit_head_only(
    train_features: Features,
    train_labels: Any,
    dev_features: Features,
    dev_labels: Any,
    *,
    classes: int,
    metric: str = "accuracy",
    search: HeadSearch | None = None,
    starts: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
    seed: int = 0,
    problem_type: ProblemType | None = None,
) -> LinearClassifier:
    """Train the output layer with every candidate of the search, and keep the one that is best on dev.

    Args:
        train_features: What the output layer sees [rows, hidden]; of choices, [sequences, hidden].
        train_labels: Label indices [rows]; values, or ``LabelledRows``, in another shape.
        dev_features: [rows, hidden]
        dev_labels: Label indices [rows]; values, or ``LabelledRows``, in another shape.
        classes: How many outputs there are.
        metric: What is best on dev; equals are decided by the loss, then by fewer epochs.
        search: What is tried; None: the defaults.
        starts: Name -> weight [classes, hidden], bias [classes]: where training may start, beside zero. Give the start
            that the target has, so that the baseline has it too.
        seed: Of the order of the rows.
        problem_type: What the outputs mean; None: classification.

    Raises:
        InputError: Shapes or labels that do not fit, or an empty search.
    """
    search = search or HeadSearch()
    problem_type = problem_type or Classification()
    if isinstance(problem_type, Classification):
        known_metric(metric).check_labels(classes)
    train = _rows(problem_type, train_features, train_labels, classes, "train")
    dev = _rows(problem_type, dev_features, dev_labels, classes, "dev")
    candidates = search.candidates(("zero", *(starts or {})))
    started = time.perf_counter()
    first = _first_parameters(candidates, starts or {}, classes, train.features.shape[1])
    results = _search(train, dev, first, candidates, search, metric, seed)
    best = max(results, key=lambda result: result.quality)
    return LinearClassifier(
        weight=best.parameters[:, :-1],
        bias=best.parameters[:, -1],
        trainable_parameters=best.parameters.size,
        seconds=time.perf_counter() - started,
        details={
            **best.candidate.facts(),
            "best_epoch": best.epoch,
            "metric": metric,
            **best.quality.facts(dev.loss_name),
            "history": best.history,
            "candidates": [one.facts(dev.loss_name) for one in results],
        },
    )


def fit_head_by_folds(
    features: Features,
    rows: LabelledRows,
    folds: np.ndarray,
    *,
    classes: int,
    metric: str,
    search: HeadSearch,
    seed: int,
    problem_type: ProblemType,
) -> LinearClassifier:
    """Train the output layer from zero with every candidate of the search on all folds but one, for each fold.

    The candidate and the epoch that are best over all rows, each predicted while it was held out, are then trained on
    all of them.

    Args:
        features: What the output layer sees, [rows, hidden]; of the words of all rows, where words have tags.
        folds: The fold of each row, [rows].

    Raises:
        InputError: Shapes or labels that do not fit.
    """
    every = _rows(problem_type, features, rows, classes, "train")
    candidates = search.candidates(("zero",))
    first = _first_parameters(candidates, {}, classes, every.features.shape[1])
    began = time.perf_counter()
    held_out = [rows.outputs_of(np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    paths = [
        _train(every, first, candidates, search, seed, examples=torch.from_numpy(np.flatnonzero(folds != fold)))
        for fold in np.unique(folds)
    ]
    best: tuple[Quality, int] | None = None
    # All folds an epoch on, then the next epoch: the outputs of all epochs would not fit where texts have many words.
    for of_folds in with_progress(zip(*paths, strict=True), 1 + max(search.epochs), _EPOCHS, log.info):
        epoch = of_folds[0][0]
        outputs = np.zeros((len(candidates), len(every.features), classes), dtype=np.float32)
        for own, (_, parameters) in zip(held_out, of_folds, strict=True):
            weight, bias = parameters[:, :, :-1], parameters[:, None, :, -1]
            outputs[:, own] = every.features[own] @ weight.transpose(0, 2, 1) + bias
        for at, candidate in enumerate(candidates):
            if epoch > candidate.epochs:
                continue
            of_candidate = outputs[at].astype(np.float64)
            found = Quality.on(metric, of_candidate, every, -epoch), at
            if best is None or found[0] > best[0]:
                best, best_outputs = found, of_candidate
    assert best is not None  # a search has an epoch and a candidate
    quality, chosen = best
    best_epoch = -int(quality.simplicity)
    path = _train(every, first[chosen : chosen + 1], [candidates[chosen]], search, seed)
    parameters = next(values[0] for epoch, values in path if epoch == best_epoch)
    return LinearClassifier(
        weight=parameters[:, :-1],
        bias=parameters[:, -1],
        trainable_parameters=parameters.size,
        seconds=time.perf_counter() - began,
        details={
            **candidates[chosen].facts(),
            "best_epoch": best_epoch,
            "metric": metric,
            "folds": len(np.unique(folds)),
            **quality.facts(every.loss_name),
            "history": [],
            "candidates": [candidate.facts() for candidate in candidates],
        },
        problem_type=problem_type.with_thresholds_on(torch.from_numpy(best_outputs), every.labels),
    )


@dataclass
class _Reached:
    """A candidate of the search and the best that it reached on dev.

    Attributes:
        quality: On dev, at the best epoch.
        epoch: The best one; 0 is the start.
        parameters: At the best epoch, [classes, hidden + 1].
        history: A record an epoch.
    """

    candidate: _Candidate
    quality: Quality
    epoch: int
    parameters: Floats
    history: list[dict[str, Any]] = field(default_factory=list)

    def facts(self, loss_name: str) -> dict[str, Any]:
        """What the report of the search says of it."""
        return {**self.candidate.facts(), "best_epoch": self.epoch, **self.quality.facts(loss_name)}


def _search(
    train: FeatureRows,
    dev: FeatureRows,
    first: torch.Tensor,
    candidates: list[_Candidate],
    search: HeadSearch,
    metric: str,
    seed: int,
) -> list[_Reached]:
    """Train every candidate from its first parameters, and measure each on dev at the start and after each epoch."""
    results: list[_Reached] = []
    path = _train(train, first, candidates, search, seed)
    for epoch, parameters in with_progress(path, 1 + max(search.epochs), _EPOCHS, log.info):
        outputs = dev.features @ parameters[:, :, :-1].transpose(0, 2, 1) + parameters[:, None, :, -1]
        for index, candidate in enumerate(candidates):
            if epoch > candidate.epochs:
                continue
            quality = Quality.on(metric, outputs[index], dev, -epoch)
            if epoch == 0:
                results.append(_Reached(candidate, quality, 0, parameters[index].copy()))
                continue
            result = results[index]
            if math.isfinite(quality.metric):
                point = {"epoch": epoch, "dev_loss": -quality.negative_loss, "dev_metric": quality.metric}
                result.history.append(point)
            if quality > result.quality:
                result.quality, result.epoch, result.parameters = quality, epoch, parameters[index].copy()
    return results


def _rows(problem_type: ProblemType, features: Features, targets: Any, classes: int, what: str) -> FeatureRows:
    if isinstance(problem_type, Classification):
        labels = targets.labels if isinstance(targets, LabelledRows) else targets
        _, indices = checked(features, labels, classes, what)
        targets = targets if isinstance(targets, LabelledRows) else indices
    return FeatureRows.of(problem_type, features, targets, what)


def _first_parameters(
    candidates: list[_Candidate],
    starts: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    classes: int,
    hidden: int,
) -> torch.Tensor:
    """The starting parameters [candidates, classes, hidden + 1]; the last column is the bias."""
    known = {"zero": torch.zeros(classes, hidden + 1)}
    for name, (weight, bias) in starts.items():
        if weight.shape != (classes, hidden) or bias.shape != (classes,):
            raise InputError(
                f"start {name!r}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} "
                f"for {classes} labels and features of width {hidden}"
            )
        known[name] = torch.cat([weight.detach().cpu(), bias.detach().cpu()[:, None]], dim=1).to(torch.float32)
    return torch.stack([known[candidate.start] for candidate in candidates])


def _train(
    train: FeatureRows,
    parameters: torch.Tensor,
    candidates: list[_Candidate],
    search: HeadSearch,
    seed: int,
    *,
    examples: torch.Tensor | None = None,
) -> Iterator[tuple[int, Floats]]:
    """Train all candidates side by side; give the parameters [candidates, classes, hidden + 1] after every epoch.

    Epoch 0 is the start. A candidate whose length is over stands still.

    Args:
        examples: Numbers of those that are learnt from; None: all.
    """
    examples = torch.arange(len(train.labels)) if examples is None else examples
    rows, inputs, weights = len(examples), train.inputs, _weights(train, candidates, examples)
    generator = torch.Generator().manual_seed(seed)
    steps_of_epoch = math.ceil(rows / search.batch_size)
    parameters = parameters.clone()
    optimiser = StackedAdamW(
        parameters.flatten(1),
        epsilon=[search.adam_epsilon] * len(candidates),
        clip_norm=[search.clip_norm] * len(candidates),
        weight_decay=search.weight_decay,
    )
    yield 0, parameters.numpy().astype(np.float64)
    step = 0
    for epoch in range(1, max(candidate.epochs for candidate in candidates) + 1):
        for batch in torch.split(examples[torch.randperm(rows, generator=generator)], search.batch_size):
            totals = [candidate.epochs * steps_of_epoch for candidate in candidates]
            factors = [lr_multiplier(search, step, total) if step < total else 0.0 for total in totals]
            rates = [one.learning_rate * factor for one, factor in zip(candidates, factors, strict=True)]
            seen = inputs[train.sequences(batch)]
            outputs = seen @ parameters.transpose(1, 2)
            surprise = train.gradient(outputs, batch, None if weights is None else weights[:, batch])
            gradient = surprise.transpose(1, 2) @ seen
            optimiser.step(gradient.flatten(1), torch.tensor(rates)[:, None])
            step += 1
        yield epoch, parameters.numpy().astype(np.float64)


def _weights(train: FeatureRows, candidates: list[_Candidate], examples: torch.Tensor) -> torch.Tensor | None:
    """The factor of each example's loss in each candidate's training, [candidates, all examples]; None: 1 everywhere.

    Args:
        examples: Those that are learnt from, which alone decide the weights; the others have 0.
    """
    if all(candidate.class_weights == "none" for candidate in candidates):
        return None
    weights = torch.zeros(len(candidates), len(train.labels), dtype=torch.float64)
    for own, candidate in zip(weights, candidates, strict=True):
        own[examples] = torch.from_numpy(
            example_weights(candidate.class_weights, train.problem_type, train.labels[examples.numpy()])
        )
    return weights
