"""The ways of training that ``train.method: auto`` compares, and how much of them fits into its minutes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beft.datasets.headline import usual_headline
from beft.problems.problem_type import ProblemType
from beft.training_settings import ClassWeights, Loss, TrainingSettings

FROZEN = "frozen features"
"""The name of the candidate that trains no bias: the problem type's linear model on what the head sees."""

RATE_FACTORS = (1.0, 3.0)
"""What the learning rate is multiplied by, where the settings name no rates; the more promising one first."""

_ALL_BIASES_SHARE = 0.5  # all biases together move the features more than one term does, so their rates are smaller

FEWEST_FOLDS = 3
"""Of a comparison that would else leave out a loss: each fold's training still has two thirds of the rows."""

MAX_REPEATS = 4
"""Divisions at most: more of them change hardly a choice, for the rows stay the same."""

NOMINAL_OPERATIONS = 1e11
"""Operations a second that the minutes of a search are counted with: about those of two CPU cores.

They are not measured: the same search would compare other candidates on another day, and choose another one.
"""

NOMINAL_LINEAR_OPERATIONS = 2e10
"""The same for the linear model on frozen features, in double precision with one thread."""


@dataclass(frozen=True)
class Candidate:
    """One way of training.

    Attributes:
        name: As the report shows it.
        terms: The bias terms; empty where the head alone is fitted, on frozen features.
        training: How the biases are trained; None without any.
        class_weights: Of the linear model on frozen features; those of a training are in it.
        pooling: ``mask`` where the head sees a mask token after the text, as ``head.pooling`` has it; else empty.
    """

    name: str
    terms: tuple[str, ...] = ()
    training: TrainingSettings | None = None
    pooling: Literal["", "mask"] = ""
    class_weights: ClassWeights = "none"

    @property
    def start(self) -> tuple[str, str] | None:
        """What decides, beside the rows, where its head starts; None where it has no start of its own.

        A contrastive training replaces the head whole.
        """
        if self.training is None or self.training.loss == "contrastive":
            return None
        return self.pooling, self.training.class_weights

    def to_json(self) -> dict[str, Any]:
        """What it is, as a JSON value."""
        training = self.training
        details = (
            {} if training is None else training.model_dump(include={"loss", "learning_rate", "epochs", "temperature"})
        )
        weights = self.class_weights if training is None else training.class_weights
        if weights != "none":
            details["class_weights"] = weights
        pooling = {"pooling": self.pooling} if self.pooling else {}
        return {"name": self.name, "terms": list(self.terms), **details, **pooling}


def candidates(
    by_loss: Mapping[Loss, TrainingSettings],
    target: str,
    every_term: Sequence[str],
    *,
    few: bool = True,
    rare: bool = False,
    prompted: TrainingSettings | None = None,
) -> list[Candidate]:
    """Frozen features, then the trained ones, the most promising first.

    Args:
        by_loss: How a candidate is trained by each loss that the problem type has; ``learning_rates``, where they name
            some, are those tried.
        target: The target term.
        every_term: All bias terms that can be trained.
        few: Whether the rows a label are so few that the contrastive loss is the more promising one, as it is then the
            default.
        rare: Whether a label has so few rows that class weights by which all labels weigh alike are compared as well:
            of frozen features and of the more promising loss.
        prompted: How one is trained whose head starts at words for the labels; None where the base has none.
    """
    plain = by_loss["cross_entropy"]
    rates = _rates(plain)
    in_order: tuple[Loss, ...] = ("contrastive", "cross_entropy") if few else ("cross_entropy", "contrastive")
    losses = [loss for loss in in_order if loss in by_loss]
    ways: list[tuple[float, Loss, tuple[str, ...], float]] = [
        (rate, loss, (target,), 1.0) for rate in rates for loss in losses
    ]
    if list(every_term) != [target]:
        ways += [(rates[0], loss, tuple(every_term), _ALL_BIASES_SHARE) for loss in losses]
    found = [Candidate(FROZEN, class_weights=plain.class_weights)]
    for rate, loss, terms, share in ways:
        what = target if len(terms) == 1 else "all biases"
        own = by_loss[loss].model_copy(update={"learning_rate": rate * share, "learning_rates": ()})
        found.append(Candidate(f"{what}, {loss.replace('_', '-')}, rate {rate * share:g}", terms, own))
    masked = []
    if prompted is not None:
        masked = [
            Candidate(
                f"{target}, mask token and label words, rate {rate:g}",
                (target,),
                prompted.model_copy(update={"learning_rate": rate, "learning_rates": ()}),
                "mask",
            )
            for rate in _rates(prompted)
        ]
    balanced = []
    if rare and plain.class_weights == "none":
        changes = {"learning_rate": rates[0], "learning_rates": (), "class_weights": "balanced"}
        weighted = by_loss[losses[0]].model_copy(update=changes)
        name = f"{target}, {losses[0].replace('_', '-')}, balanced, rate {rates[0]:g}"
        balanced = [Candidate(f"{FROZEN}, balanced", class_weights="balanced"), Candidate(name, (target,), weighted)]
    promising, others = found[: 1 + len(losses)], found[1 + len(losses) :]
    # With few rows cross-entropy is better from words than from a constant (benchmarks/label_words and few_labels).
    at = 2 if few else len(promising)
    promising[at:at] = masked[:1]
    return [*promising, *masked[1:], *balanced, *others]


def weights_are_compared(training: TrainingSettings, problem_type: ProblemType, targets: NDArray[Any]) -> bool:
    """Whether trainings in which all labels weigh alike are compared: a label is rare, and no weights are asked for.

    Args:
        targets: As in ``LabelledRows.labels``.
    """
    return training.class_weights == "none" and problem_type.has_classes and has_rare_label(targets)


def has_rare_label(labels: NDArray[np.int64]) -> bool:
    """Whether accuracy hardly shows the rarest label, and another has twice its rows.

    With 77 labels of equally many rows accuracy hardly shows any of them, but weights would change nothing.
    """
    numbers, counts = np.unique(labels, return_counts=True)
    headline, _ = usual_headline(dict(zip(map(str, numbers), map(float, counts), strict=True)))
    return headline != "accuracy" and bool(counts.max() >= 2 * counts.min())


def _rates(training: TrainingSettings) -> tuple[float, ...]:
    """Those that the settings name, or two about the learning rate that they have."""
    return training.learning_rates or tuple(float(f"{training.learning_rate * factor:.6g}") for factor in RATE_FACTORS)


@dataclass(frozen=True)
class SearchPlan:
    """What a search computes.

    Attributes:
        candidates: Frozen features first.
        folds: Parts that the rows are divided into; each is held out once.
        repeats: Divisions.
        seconds: What the trainings and the linear models take at ``NOMINAL_OPERATIONS``, the latter at
            ``NOMINAL_LINEAR_OPERATIONS``.
    """

    candidates: tuple[Candidate, ...]
    folds: int
    repeats: int
    seconds: float


def repeats_within(minutes: float, once: float) -> int:
    """How many divisions fit into some minutes, ``MAX_REPEATS`` at most, where one takes ``once`` seconds."""
    return max(1, min(MAX_REPEATS, int(60 * minutes / once))) if once else MAX_REPEATS


def plan_search(
    ways: Sequence[Candidate],
    tokens: int,
    operations: float,
    minutes: float,
    *,
    folds: int,
    linear: float = 0.0,
    start: float = 0.0,
) -> SearchPlan:
    """As many repeats as fit into the minutes; where not one fits, fewer candidates, one of each loss at least.

    Where these do not fit either, fewer folds, which cost less; then the more promising loss alone.

    Args:
        ways: In the order of ``candidates``.
        tokens: Of all rows.
        operations: Of a training step for each token.
        minutes: What is planned with; two candidates are compared once though they take longer.
        folds: Of each division.
        linear: Operations of the linear model on the frozen features of all rows, with every penalty.
        start: The same of the one at which a head starts; 0 where it starts otherwise.
    """

    def seconds(compared: Sequence[Candidate], folds: int) -> float:
        epochs = sum(one.training.epochs for one in compared if one.training is not None)
        # Each of the folds learns from the rows of all others.
        trained = epochs * tokens * operations / NOMINAL_OPERATIONS
        fitted = linear * sum(one.training is None for one in compared)
        fitted += start * len({one.start for one in compared} - {None})
        return (folds - 1) * (trained + fitted / NOMINAL_LINEAR_OPERATIONS)

    losses = len({one.training.loss for one in ways if one.training is not None})
    fewest = min(folds, FEWEST_FOLDS)
    plans = [
        (tuple(ways[:count]), divided)
        for count in range(max(len(ways), 2), 1, -1)  # also where nothing can be trained
        for divided in range(folds, (fewest if count <= 1 + losses else folds) - 1, -1)
    ]
    compared, divided = next((plan for plan in plans if seconds(*plan) <= 60 * minutes), plans[-1])
    once = seconds(compared, divided)
    repeats = repeats_within(minutes, once)
    return SearchPlan(compared, divided, repeats, repeats * once)
