"""Which candidate cross-validation chooses, by how much, and how certain that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from beft.encoding.examples import LabelledRows
from beft.errors import TrainingError
from beft.evaluation.scores import Method, evaluate_methods
from beft.inference.predictions import score_rows
from beft.problems.problem_type import ProblemType
from beft.training.automatic.candidates import Candidate
from beft.training.automatic.cross_validation import OutOfFold, with_held_out_thresholds

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A candidate and what cross-validation found of it.

    Attributes:
        candidate: What was trained.
        metric: The mean over the divisions of the metric over all rows, each predicted while it was held out.
        loss: The mean loss of the same predictions.
        outputs: [repeats, rows, outputs]; of the words of all rows, where words have tags.
        penalty: Of frozen features.
        failed: Why there is nothing else.
    """

    candidate: Candidate
    metric: float = float("-inf")
    loss: float = float("inf")
    outputs: Floats | None = None
    penalty: float | None = None
    failed: str | None = None

    @property
    def known_outputs(self) -> Floats:
        """The outputs of one that has not failed."""
        assert self.outputs is not None
        return self.outputs


def score_candidate(
    candidate: Candidate, found: OutOfFold, problem_type: ProblemType, rows: LabelledRows, metric: str
) -> Scored:
    """The scores of a candidate's out-of-fold outputs."""
    if found.outputs is None:
        return Scored(candidate, failed=found.failed)
    if not np.isfinite(found.outputs).all():
        return Scored(candidate, failed="its outputs are NaN or infinite")
    own = with_held_out_thresholds(problem_type, found.outputs, rows)
    metrics, losses = zip(*(_of_division(one, own, rows, metric) for one in found.outputs), strict=True)
    mean, loss = float(np.mean(metrics)), float(np.mean(losses))
    return Scored(candidate, round(mean, 12), loss, found.outputs, found.penalty)


def best_penalty(frozen: Sequence[Scored]) -> Scored:
    """The penalty with the least loss, which says more than the metric of few rows; the strongest of equals."""
    return min(frozen, key=lambda one: one.loss)


@dataclass(frozen=True)
class Choice:
    """The outcome of a search.

    Attributes:
        chosen: The best by the metric, as ``choose`` has it.
        compared: All of them, in their order.
        folds: Of each division.
        repeats: Divisions.
        differences: How much better the chosen one is than each other one by the metric: the difference and the 95 %
            interval, by resamples of the rows; None for itself and those that failed.
        problem_type: What the outputs of the chosen one mean: where labels have thresholds, those that are best on its
            predictions of held-out rows.
    """

    chosen: Scored
    compared: tuple[Scored, ...]
    folds: int
    repeats: int
    differences: tuple[tuple[float, float, float] | None, ...]
    problem_type: ProblemType

    def to_json(self) -> dict[str, Any]:
        """What was compared and chosen, as a JSON value."""
        listed = []
        for scored, difference in zip(self.compared, self.differences, strict=True):
            facts = scored.candidate.to_json()
            if scored.failed is not None:
                listed.append({**facts, "failed": scored.failed})
                continue
            facts |= {"metric": scored.metric, "loss": scored.loss}
            if scored.penalty is not None:
                facts["penalty"] = scored.penalty
            if difference is not None:
                facts["behind"] = dict(zip(("difference", "low", "high"), difference, strict=True))
            listed.append(facts)
        return {
            "chosen": self.chosen.candidate.name,
            "trains_biases": bool(self.chosen.candidate.terms),
            "folds": self.folds,
            "repeats": self.repeats,
            "candidates": listed,
        }


def choose(
    compared: Sequence[Scored],
    problem_type: ProblemType,
    rows: LabelledRows,
    metric: str,
    *,
    folds: int,
    repeats: int,
    seed: int,
) -> Choice:
    """Choose the best by the metric, or the most promising one where the best is hardly better.

    Equals are decided by cost alone, for the cheaper stands first. With few rows the best is often so by chance: where
    it is better than the first trained candidate (by its order the most promising one, before any row was seen) by
    less than a standard error, that one is taken.

    Raises:
        TrainingError: All of them failed.
    """
    known = [one for one in compared if one.failed is None]
    if not known:
        raise TrainingError("; ".join(f"{one.candidate.name}: {one.failed}" for one in compared))
    chosen = max(known, key=lambda one: one.metric)
    promising = next((one for one in known if one.candidate.terms), chosen)
    if chosen.metric > promising.metric:
        gain = _differences(chosen, [promising], problem_type, rows, metric, seed)[promising.candidate.name]
        if gain[0] < _standard_error(gain):
            chosen = promising
    differences = _differences(chosen, [one for one in known if one is not chosen], problem_type, rows, metric, seed)
    return Choice(
        chosen,
        tuple(compared),
        folds,
        repeats,
        tuple(differences.get(one.candidate.name) for one in compared),
        with_held_out_thresholds(problem_type, chosen.known_outputs, rows),
    )


def _differences(
    chosen: Scored, others: Sequence[Scored], problem_type: ProblemType, rows: LabelledRows, metric: str, seed: int
) -> dict[str, tuple[float, float, float]]:
    """By how much the chosen candidate is better than each other one, with intervals over the rows."""
    methods = {}
    for one in (chosen, *others):
        own = with_held_out_thresholds(problem_type, one.known_outputs, rows)
        divisions = [own.predictions_of(torch.from_numpy(outputs), rows) for outputs in one.known_outputs]
        methods[one.candidate.name] = Method({"sample": divisions})
    found = evaluate_methods(
        methods,
        {"sample": rows.truth},
        target=chosen.candidate.name,
        baselines=[one.candidate.name for one in others],
        metrics=[metric],
        seed=seed,
    )
    gains = {name: gain[metric] for name, gain in found.splits["sample"].gains.items()}
    return {name: (gain.difference, gain.low, gain.high) for name, gain in gains.items()}


def _standard_error(gain: tuple[float, float, float]) -> float:
    """That of a difference, from its 95 % interval."""
    _, low, high = gain
    return (high - low) / (2 * 1.96)


def _of_division(outputs: Floats, problem_type: ProblemType, rows: LabelledRows, metric: str) -> tuple[float, float]:
    tensor = torch.from_numpy(outputs)
    loss = problem_type.mean_loss(tensor, torch.from_numpy(rows.labels), rows.output_sizes)
    return score_rows(metric, problem_type.predictions_of(tensor, rows), rows), loss
