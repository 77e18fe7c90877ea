"""Out-of-fold predictions of every candidate, all trainings in shared passes over the base."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from beft.bank.bank import Bank
from beft.encoding.examples import LabelledRows
from beft.heads.by_problem_type import linear_path
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import FailedRun, Metric, Run, RunResult
from beft.inference.together import row_axes
from beft.models.classifier import Classifier
from beft.problems.problem_type import ProblemType
from beft.progress import with_progress
from beft.sites.offloading import input_device
from beft.training.automatic.candidates import Candidate
from beft.training.engine.fit import fit

log = logging.getLogger("beft.training.automatic")

Floats = NDArray[np.float64]

_RUNS_AT_ONCE = 32  # of held-out predictions; each computes all rows


@dataclass(frozen=True)
class OutOfFold:
    """What a candidate gives for rows that it was not trained on.

    Attributes:
        outputs: [repeats, rows, outputs], where words have tags [repeats, words, outputs]; None where a training
            failed.
        failed: Why it has none.
        penalty: Of frozen features: the linear model's, C for labels.
    """

    outputs: Floats | None
    failed: str | None = None
    penalty: float | None = None


def linear_out_of_fold(
    problem_type: ProblemType,
    labels: int,
    features: Floats,
    rows: LabelledRows,
    folds: NDArray[np.int64],
    *,
    intercept: bool = True,
    balanced: bool = False,
    progress: Callable[[str], None] = log.info,
) -> list[OutOfFold]:
    """The problem type's linear model on frozen features, with each penalty.

    Args:
        features: [rows, hidden]; of the words of all rows, where words have tags.
        folds: The fold of each row in each division, [repeats, rows].
        intercept: Whether the layer has a bias.
        balanced: Whether all labels of a classification weigh alike, as ``class_weights: balanced``.

    Raises:
        InputError: The problem type has no such model.
    """
    by_penalty: dict[float, Floats] = {}
    parts = [(repeat, fold) for repeat, division in enumerate(folds) for fold in np.unique(division)]
    for repeat, fold in with_progress(parts, len(parts), "folds of the linear model on frozen features", progress):
        held_out, train = np.flatnonzero(folds[repeat] == fold), np.flatnonzero(folds[repeat] != fold)
        seen, own = features[rows.outputs_of(train)], rows.outputs_of(held_out)
        path = linear_path(problem_type, labels, seen, rows.take(train), intercept=intercept, balanced=balanced)
        for penalty, weight, bias in path:
            shape = (len(folds), len(features), len(weight))
            found = by_penalty.setdefault(penalty, np.full(shape, np.nan))
            found[repeat, own] = features[own] @ weight.T + bias
    return [OutOfFold(outputs, penalty=penalty) for penalty, outputs in by_penalty.items()]


def trained_out_of_fold(
    classifier: Classifier,
    rows: LabelledRows,
    folds: NDArray[np.int64],
    compared: Sequence[Candidate],
    plan_run: Callable[[Candidate, NDArray[np.int64]], Run],
    *,
    metric: Metric,
    checkpoints: Path | None,
    progress: Callable[[str], None],
) -> list[OutOfFold]:
    """Train each candidate on the rows of all folds but one, for each fold of each division, and predict that one.

    Args:
        compared: Candidates that train biases.
        plan_run: The run of a candidate that learns from the rows of some numbers.
    """
    runs, held_out = [], []
    for candidate in compared:
        for repeat, division in enumerate(folds):
            for fold in np.unique(division):
                name = f"{candidate.name}, division {repeat + 1}, fold {fold + 1}"
                train = np.flatnonzero(division != fold)
                planned = plan_run(candidate, train)
                runs.append(replace(planned, name=name, rows=tuple(train.tolist()), select="last"))
                held_out.append((repeat, np.flatnonzero(division == fold)))
    results = fit(classifier, rows, None, runs, metric=metric, checkpoints=checkpoints, progress=progress)
    trained = [result for result in results if isinstance(result, RunResult)]
    predicted = iter(_outputs(classifier, rows, trained))
    of_each, found = len(runs) // len(compared), []
    for at in range(len(compared)):
        outputs: Floats | None = None
        failed: str | None = None
        for number in range(at * of_each, (at + 1) * of_each):
            result = results[number]
            if isinstance(result, FailedRun):
                failed = failed or result.reason
                continue
            of_run = next(predicted)
            if outputs is None:
                outputs = np.full((len(folds), *of_run.shape), np.nan)
            repeat, examples = held_out[number]
            own = rows.outputs_of(examples)
            outputs[repeat, own] = of_run[own]
        found.append(OutOfFold(None if failed else outputs, failed))
    return found


def with_held_out_thresholds(problem_type: ProblemType, outputs: Floats, rows: LabelledRows) -> ProblemType:
    """The problem type with the thresholds, where it has some, that are best on rows that were held out.

    Args:
        outputs: Of each row while it was held out, in each division: [repeats, rows, outputs].
    """
    if not problem_type.has_thresholds:
        return problem_type
    every = torch.from_numpy(outputs.reshape(-1, outputs.shape[-1]))
    return problem_type.with_thresholds_on(every, np.tile(rows.labels, (len(outputs), 1)))


def _outputs(classifier: Classifier, rows: LabelledRows, results: Sequence[RunResult]) -> "list[Floats]":
    """The outputs of all rows under each of some trainings, [rows or words, outputs] each, many in a pass."""
    sites = dict.fromkeys(site for result in results for site in result.deltas)
    axes = row_axes(classifier, rows, sites) if len(results) > 1 else {}
    at_once = 1 if None in axes.values() else _RUNS_AT_ONCE
    found: list[Floats] = []
    for start in range(0, len(results), at_once):
        part = results[start : start + at_once]
        device = input_device(classifier.model)
        dtype = next(value.dtype for result in part for value in result.deltas.values())
        zero = {site: torch.zeros(site.width, dtype=dtype) for site in sites}
        deltas = {site: torch.stack([one.deltas.get(site, zero[site]) for one in part]).to(device) for site in sites}
        head = {name: torch.stack([one.head[name] for one in part]).to(device) for name in part[0].head}
        with Bank(classifier.model, deltas, head, axes=axes) as bank:
            outputs = sequence_outputs(classifier, rows.encoded, runs=range(len(part)), choose=bank.choose)
        found += list(outputs.numpy())
    return found
