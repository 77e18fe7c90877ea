"""Train bias deltas and a head over one frozen base: any number of runs, in as few passes as memory allows.

A run alone and a run among others take the same steps; a single run is a pass of one.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from beft.classifier import Classifier
from beft.errors import BeftError, InputError
from beft.estimate import Estimate, available_bytes, estimate, readable_bytes, readable_seconds
from beft.files import read_json, sha256_json, write_json
from beft.first_token import first_token_alone, reads_first_token_alone
from beft.out_of_memory import is_out_of_memory
from beft.passes import TrainingPass
from beft.process_state import with_own_threads
from beft.progress import Progress
from beft.recompute import recomputed_layers
from beft.row_axes import RowAxis, measure_row_axes, one_axis
from beft.runs import LabelledRows, Metric, Run, RunResult
from beft.sites import site_module

log = logging.getLogger("beft.training")

_USABLE = 0.5
"""The share of the free memory that the kept activations of a pass may take: with what the backward pass needs beside
them it takes up to 1.6 times as much (benchmarks/growth.md)."""


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
) -> list[RunResult]:
    """Train every run; the base is left bit for bit as it was.

    Args:
        dev: Chooses the epoch; None only for runs that select ``last``.
        metric: The dev metric.
        checkpoints: A folder in which interrupted passes are found and continued.
        progress: Takes one line of text at a time; on a terminal a bar is shown beside.
        at_once: The most runs of a pass; none: as many as an estimate of the memory allows, which is measured first
            and told, with one of the time.

    Returns:
        The results in the order of the runs.

    Raises:
        InputError: Two runs of one name, a run that trains nothing, or ``best`` without a dev split.
        BeftError: The loss is no longer a number, or a run does not fit into memory even alone.
    """
    _check_runs(runs, dev)
    try:
        axes = _axes(classifier, train, runs) if len(runs) > 1 else {}
        longest = np.argsort(-train.encoded.lengths, kind="stable")[:2]
        first_token = reads_first_token_alone(classifier, train.encoded.batch(longest, classifier.device))
        with first_token_alone(classifier.model, on=first_token):
            return _fit(classifier, train, dev, runs, metric, axes, checkpoints, progress, at_once)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BeftError(
            f"out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}): not even one run "
            "fits beside what else runs on this machine; set train.rows_at_once to less than train.batch_size, or "
            "train.activation_checkpointing to true"
        ) from error


def _fit(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    metric: Metric,
    axes: dict[str, RowAxis],
    checkpoints: Path | None,
    progress: Callable[[str], None],
    at_once: int | None,
) -> list[RunResult]:
    """What ``fit`` does once it is known how the base is computed."""
    if at_once is None:
        with recomputed_layers(classifier.model, on=all(run.settings.activation_checkpointing for run in runs)):
            cost = estimate(classifier, train, max(_rows_at_once(run) for run in runs))
        seconds = sum(cost.seconds_of(train, run.settings.epochs) for run in runs)
        progress(
            f"{len(train)} rows, {len(runs)} {'run' if len(runs) == 1 else 'runs'}: about {readable_seconds(seconds)}, "
            f"and {readable_bytes(cost.saved_bytes)} for the activations of a batch of the longest rows"
        )
        at_once = _most_at_once(classifier, cost)
    plan = _plan(runs, axes, checkpoints, progress, at_once)
    found: dict[str, RunResult] = {}
    while waiting := [group for group in plan if runs[group[0]].name not in found]:
        group = waiting[0]
        of_group = [runs[index] for index in group]
        results: list[RunResult] | None = None
        try:
            results = TrainingPass(
                classifier,
                train,
                dev,
                of_group,
                metric,
                axes=axes,
                checkpoint=_checkpoint(checkpoints, of_group),
                progress=Progress(progress),
            ).results()
        except (RuntimeError, MemoryError) as error:
            if len(group) == 1 or not is_out_of_memory(error):
                raise
        if results is None:  # the error, which held on to what the pass had computed, is gone here
            half = len(group) // 2
            progress(f"{len(group)} runs do not fit into memory together; going on with {half} and {len(group) - half}")
            gc.collect()
            torch.cuda.empty_cache()
            at = plan.index(group)
            plan[at : at + 1] = [group[:half], group[half:]]
            _write_plan(checkpoints, runs, plan)
            continue
        found |= {result.run.name: result for result in results}
    return [found[run.name] for run in runs]


def _check_runs(runs: Sequence[Run], dev: LabelledRows | None) -> None:
    if len({run.name for run in runs}) != len(runs):
        raise InputError("two runs have the same name")
    for run in runs:
        if not run.sites and not run.head:
            raise InputError(f"run {run.name!r} trains neither a bias nor the head")
        if run.select == "best" and dev is None:
            raise InputError(f"run {run.name!r} selects its epoch on dev, but there is no dev split")


def _axes(classifier: Classifier, train: LabelledRows, runs: Sequence[Run]) -> dict[str, RowAxis]:
    """Where each module of the runs' sites keeps the rows of a batch; nowhere when two rows cannot tell."""
    modules = {site.module: site_module(classifier.model, site) for run in runs for site in run.sites}
    tokens = train.encoded.input_ids
    other = next((row for row in range(1, len(train)) if tokens[row] != tokens[0]), 0)
    measured = measure_row_axes(classifier, modules, train.encoded.batch([0, other], classifier.device))
    return {name: one_axis(measured[name]) if measured else None for name in modules}


def _rows_at_once(run: Run) -> int:
    """The rows of a run that are computed at once."""
    settings = run.settings
    return min(settings.batch_size, settings.rows_at_once or settings.batch_size)


def _most_at_once(classifier: Classifier, cost: Estimate) -> int:
    """How many runs fit into the free memory together."""
    return max(1, int(_USABLE * available_bytes(classifier.device) / max(1, cost.saved_bytes)))


def _plan(
    runs: Sequence[Run],
    axes: dict[str, RowAxis],
    checkpoints: Path | None,
    progress: Callable[[str], None],
    at_once: int,
) -> list[list[int]]:
    """Which runs share a pass, as numbers of runs; an interrupted plan is replayed."""
    if len(runs) == 1:
        return [[0]]
    path = _plan_path(checkpoints, runs)
    if path is not None and path.is_file():
        plan: list[list[int]] = read_json(path)
        return plan
    groups: dict[object, list[int]] = {}
    for index, run in enumerate(runs):
        alone = any(axes[site.module] is None for site in run.sites)
        # How the base computes is the same for all runs of a pass.
        settings = run.settings
        shared = (settings.dropout, settings.rows_at_once, settings.activation_checkpointing)
        groups.setdefault(("alone", index) if alone else shared, []).append(index)
    plan = [group[start : start + at_once] for group in groups.values() for start in range(0, len(group), at_once)]
    progress(f"{len(runs)} runs in {len(plan)} {'pass' if len(plan) == 1 else 'passes'}")
    _write_plan(checkpoints, runs, plan)
    return plan


def _plan_path(checkpoints: Path | None, runs: Sequence[Run]) -> Path | None:
    identity = sha256_json([run.identity() for run in runs])
    return None if checkpoints is None else checkpoints / f"plan-{identity[:16]}.json"


def _write_plan(checkpoints: Path | None, runs: Sequence[Run], plan: list[list[int]]) -> None:
    path = _plan_path(checkpoints, runs)
    if path is not None:
        write_json(path, plan)


def _checkpoint(checkpoints: Path | None, group: Sequence[Run]) -> Path | None:
    if checkpoints is None:
        return None
    name = group[0].name if len(group) == 1 else f"pass-{sha256_json([run.name for run in group])[:16]}"
    return checkpoints / f"{name}.safetensors"
