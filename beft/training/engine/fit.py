"""Train bias deltas and a head over one frozen base: any number of runs, in as few passes as memory allows.

A run alone and a run among others take the same steps; a single run is a pass of one.
"""

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from beft.bank.first_token import first_token_alone, reads_first_token_alone
from beft.errors import InputError, TrainingError
from beft.files import read_json, sha256_json, write_json
from beft.inference.runs import FailedRun, LabelledRows, Metric, Run, RunResult
from beft.inference.together import row_axes
from beft.models.classifier import Classifier
from beft.models.memory import available_bytes, is_out_of_memory, out_of_memory_reason
from beft.problems.choosing import check_loss
from beft.process_state import with_own_threads
from beft.sites.batch_axis import RowAxis
from beft.training.engine.activation_checkpointing import activation_checkpointing
from beft.training.engine.bias_parameters import BiasParameters
from beft.training.engine.checkpoint import Checkpoint, PassCheckpoint
from beft.training.engine.cost import readable_bytes, readable_seconds, saved_bytes
from beft.training.engine.identity import run_identity, training_identity
from beft.training.engine.progress import Progress
from beft.training.engine.target_scale import divide_targets, in_unit_of_values
from beft.training.engine.timing import MEASURED_SECONDS, TokenTime, time_pass
from beft.training.engine.trainer import TrainingPass

log = logging.getLogger("beft.training.engine.fit")

_USABLE = 0.5
"""The share of the free memory that the kept activations of a pass may take: with what the backward pass needs beside
them it takes up to 1.6 times as much (benchmarks/speed/growth.md)."""


@with_own_threads
def fit(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    *,
    metric: Metric,
    checkpoints: Path | None = None,
    progress: Callable[[str], None] = log.info,
    at_once: int | None = None,
) -> list[RunResult | FailedRun]:
    """Train every run; the base is left bit for bit as it was.

    A run that fails (its loss becomes NaN or infinite, or it does not fit into memory even alone) stops no other.

    Args:
        dev: Chooses the epoch; None only for runs that select ``last``.
        metric: The dev metric.
        checkpoints: A folder in which interrupted passes are found and continued. The files of finished ones stay, for
            a caller that is interrupted later: each other setting adds some, and whoever gave the folder clears it.
        progress: Takes one line of text at a time; on a terminal a bar is shown beside.
        at_once: The most runs of a pass; None: as many as an estimate of the memory allows, which is measured first
            and told, with one of the time.

    Returns:
        The results in the order of the runs, or why a run has none; see ``beft.inference.runs.finished``.

    Raises:
        InputError: Two runs of one name, a run that trains nothing by its loss, or ``best`` without a dev split.
        TrainingError: The base alone does not fit into memory.
    """
    _check_runs(classifier, runs, dev)
    asked = runs
    scale, train, dev, runs = divide_targets(classifier, train, dev, asked)
    kept = _Checkpoints.of(checkpoints, classifier, train, dev, metric, runs)
    try:
        with _computing(classifier, train, runs) as axes:
            results = _fit(classifier, train, dev, runs, metric, axes, kept, progress, at_once)
            return [
                in_unit_of_values(classifier, result, run, scale) for result, run in zip(results, asked, strict=True)
            ]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory_reason(error)) from error


@with_own_threads
def training_time(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    *,
    seconds: float = MEASURED_SECONDS,
) -> TokenTime:
    """Measure what runs take that share a pass; nothing is changed.

    Args:
        seconds: How long their steps are measured; two are taken at least.
    """
    with _computing(classifier, train, runs) as axes:
        return time_pass(classifier, train, dev, runs, axes, seconds=seconds)


@contextmanager
def _computing(classifier: Classifier, train: LabelledRows, runs: Sequence[Run]) -> Iterator[dict[str, RowAxis]]:
    """Within the context the base is computed as runs need it; gives where their modules keep the rows of a batch."""
    axes = row_axes(classifier, train, (site for run in runs for site in run.sites)) if len(runs) > 1 else {}
    longest = np.argsort(-train.encoded.lengths, kind="stable")[:2]
    first_token = reads_first_token_alone(classifier, train.encoded.batch(longest, classifier.device))
    with first_token_alone(classifier.model, on=first_token):
        yield axes


def _fit(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    metric: Metric,
    axes: dict[str, RowAxis],
    kept: "_Checkpoints",
    progress: Callable[[str], None],
    at_once: int | None,
) -> list[RunResult | FailedRun]:
    """What ``fit`` does once it is known how the base is computed."""
    saved = None
    if at_once is None:
        with activation_checkpointing(classifier.model, on=all(run.settings.activation_checkpointing for run in runs)):
            saved = saved_bytes(classifier, train, max(_rows_computed_at_once(run) for run in runs))
        at_once = max(1, int(_USABLE * available_bytes(classifier.device) / max(1, saved)))
    plan = _plan(runs, axes, kept, progress, at_once)
    if saved is not None:
        seconds = _expected_seconds(classifier, train, dev, [[runs[index] for index in group] for group in plan], axes)
        progress(
            f"{len(train)} rows, {len(runs)} {'run' if len(runs) == 1 else 'runs'}: "
            f"{'' if seconds is None else f'about {readable_seconds(seconds)}, and '}{readable_bytes(saved)} for the "
            "activations of a batch of the longest rows"
        )
    found: dict[str, RunResult | FailedRun] = {}
    while waiting := [group for group in plan if runs[group[0]].name not in found]:
        group = waiting[0]
        of_group = [runs[index] for index in group]
        results: list[RunResult | FailedRun] = []
        exhausted: str | None = None
        try:
            parameters = BiasParameters(classifier.model, of_group, axes)
            file = kept.of_pass(group)
            results = TrainingPass(
                classifier,
                train,
                dev,
                of_group,
                metric,
                parameters=parameters,
                checkpoint=None if file is None else PassCheckpoint(file, parameters, classifier.device),
                progress=Progress(progress),
            ).results()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            exhausted = out_of_memory_reason(error)
        if exhausted is not None:  # the error, which held on to what the pass had computed, is gone here
            gc.collect()
            torch.cuda.empty_cache()
            if len(group) > 1:
                _halve(plan, group, kept, progress)
                continue
            progress(f"{of_group[0].name}: {exhausted}")
            results = [FailedRun(of_group[0], f"{of_group[0].name}: {exhausted}")]
        found |= {result.run.name: result for result in results}
    return [found[run.name] for run in runs]


def _halve(plan: list[list[int]], group: list[int], kept: "_Checkpoints", progress: Callable[[str], None]) -> None:
    """Plan two passes in place of one that does not fit into memory."""
    half = len(group) // 2
    progress(f"{len(group)} runs do not fit into memory together; going on with {half} and {len(group) - half}")
    at = plan.index(group)
    plan[at : at + 1] = [group[:half], group[half:]]
    if kept.plan is not None:
        write_json(kept.plan, plan)


def _check_runs(classifier: Classifier, runs: Sequence[Run], dev: LabelledRows | None) -> None:
    if len({run.name for run in runs}) != len(runs):
        raise InputError("two runs have the same name")
    for run in runs:
        if not run.sites and not run.head:
            raise InputError(f"run {run.name!r} trains neither a bias nor the head")
        if not run.sites and run.settings.loss == "contrastive":
            raise InputError(
                f"run {run.name!r} trains no bias (inert ones are left as they are), and a contrastive loss trains "
                "nothing else: name another bias term, or use train.loss: cross_entropy, which trains the head"
            )
        if run.select == "best" and dev is None:
            raise InputError(f"run {run.name!r} selects its epoch on dev, but there is no dev split")
        check_loss(classifier.problem_type, run.settings)


def _rows_computed_at_once(run: Run) -> int:
    """The rows of a run that are computed at once."""
    settings = run.settings
    return min(settings.batch_size, settings.micro_batch_size or settings.batch_size)


def _expected_seconds(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    passes: Sequence[Sequence[Run]],
    axes: dict[str, RowAxis],
) -> float | None:
    """About how long some passes take: one of each size is measured. None where not even that fits into memory."""
    times: dict[int, TokenTime] = {}
    for runs in passes:
        if len(runs) not in times:
            try:
                times[len(runs)] = time_pass(classifier, train, dev, runs, axes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                return None
    return sum(times[len(runs)].seconds(train, dev, run.settings.epochs) for runs in passes for run in runs)


def _plan(
    runs: Sequence[Run],
    axes: dict[str, RowAxis],
    kept: "_Checkpoints",
    progress: Callable[[str], None],
    at_once: int,
) -> list[list[int]]:
    """Which runs share a pass, as numbers of runs; an interrupted plan is replayed."""
    if len(runs) == 1:
        return [[0]]
    if (interrupted := _read_plan(kept.plan, len(runs))) is not None:
        return interrupted
    groups: dict[object, list[int]] = {}
    for index, run in enumerate(runs):
        alone = any(axes[site.module] is None for site in run.sites)
        # How the base computes is the same for all runs of a pass.
        settings = run.settings
        shared = (settings.dropout, settings.micro_batch_size, settings.activation_checkpointing)
        groups.setdefault(("alone", index) if alone else shared, []).append(index)
    plan = [group[start : start + at_once] for group in groups.values() for start in range(0, len(group), at_once)]
    progress(f"{len(runs)} runs in {len(plan)} {'pass' if len(plan) == 1 else 'passes'}")
    if kept.plan is not None:
        write_json(kept.plan, plan)
    return plan


def _read_plan(path: Path | None, runs: int) -> list[list[int]] | None:
    """The plan of an interrupted training; None where there is none, or it is damaged."""
    try:
        plan: list[list[int]] = read_json(path) if path is not None else []
        return plan if sorted(run for group in plan for run in group) == list(range(runs)) else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class _Checkpoints:
    """Where the passes of a training are found again: files whose names say what they belong to.

    Attributes:
        folder: None: nothing is kept.
        training: The identity of what all runs share.
        runs: The identity of each run.
    """

    folder: Path | None
    training: str = ""
    runs: tuple[Any, ...] = ()

    @classmethod
    def of(
        cls,
        folder: Path | None,
        classifier: Classifier,
        train: LabelledRows,
        dev: LabelledRows | None,
        metric: Metric,
        runs: Sequence[Run],
    ) -> Self:
        """Those of a training in a folder; nothing is hashed where nothing is kept."""
        if folder is None:
            return cls(None)
        shared = training_identity(classifier, train, dev, metric)
        return cls(folder, shared, tuple(run_identity(run, classifier) for run in runs))

    @property
    def plan(self) -> Path | None:
        """The file of the plan."""
        return self.folder and self.folder / f"plan-{self._identity(range(len(self.runs)))[:16]}.json"

    def of_pass(self, group: Sequence[int]) -> Checkpoint | None:
        """The checkpoint of the pass of some runs."""
        if self.folder is None:
            return None
        identity = self._identity(group)
        return Checkpoint(self.folder / f"pass-{identity[:16]}.safetensors", identity)

    def _identity(self, group: Sequence[int]) -> str:
        return sha256_json([self.training, [self.runs[run] for run in group]])
