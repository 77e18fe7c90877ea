"""One call that measures any method, and one that measures many over the same base and rows."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from beft.comparison.attempt import attempt
from beft.comparison.common import Common
from beft.comparison.from_features import fit_on_features
from beft.comparison.one_by_one import train_one
from beft.comparison.registry import Kind, MethodOptions, known_method
from beft.comparison.result import MethodResult, MethodRun, NotAvailable
from beft.comparison.shared_passes import train_together
from beft.comparison.untrained import predict_in_context, predict_untouched
from beft.datasets.prepared import Split
from beft.errors import InputError, TrainingError
from beft.process_state import cpu_threads
from beft.training.session import Session
from beft.training_settings import TrainingSettings

log = logging.getLogger("beft.comparison")

Found = MethodResult | NotAvailable


def _way(method: str, kind: Kind) -> Callable[[Common, MethodRun], MethodResult]:
    """How a run is measured that shares no pass."""
    if kind is Kind.UNTRAINED:
        return predict_untouched if method == "untouched" else predict_in_context
    return fit_on_features if kind is Kind.FEATURES else train_one


def measure(
    session: Session,
    method: str,
    *,
    seed: int | None = None,
    training: TrainingSettings | None = None,
    options: MethodOptions | None = None,
    splits: Sequence[Split] = ("test",),
    checkpoints: Path | None = None,
    progress: Callable[[str], None] = log.info,
) -> MethodResult:
    """Measure one method from one seed; the base is left bit for bit as it was.

    Args:
        seed: None: the settings' own.
        training: Instead of the settings' section.
        options: None: the defaults.
        splits: What is predicted.
        checkpoints: A folder in which an interrupted training of biases is found and continued.
        progress: Takes one line of text at a time.

    Raises:
        InputError: There is no such method, or it is not available for this base and dataset, and why.
        TrainingError: It failed, and why.
    """
    run = MethodRun(method, session.settings.seed if seed is None else seed, training, options or MethodOptions())
    [found] = measure_many(session, [run], splits=splits, checkpoints=checkpoints, progress=progress)
    if isinstance(found, NotAvailable):
        raise (TrainingError if found.failed else InputError)(found.reason)
    return found


def measure_many(
    session: Session,
    runs: Sequence[MethodRun | tuple[str, int]],
    *,
    splits: Sequence[Split] = ("test",),
    checkpoints: Path | None = None,
    progress: Callable[[str], None] = log.info,
) -> list[Found]:
    """Measure many methods from many seeds, on the same rows; each gives what it gives alone.

    What moves bias vectors and the head alone is trained in shared passes, the rest one run at a time.

    Args:
        runs: A pair is a method and its seed.
        splits: What is predicted.
        checkpoints: A folder in which interrupted trainings of biases are found and continued.
        progress: Takes one line of text at a time.

    Returns:
        In the order of the runs; what a base or dataset has not got, and what fails, says why, and stops nothing else.

    Raises:
        InputError: There is no such method.
    """
    wanted = [run if isinstance(run, MethodRun) else MethodRun(*run) for run in runs]
    with cpu_threads(session.classifier.threads):
        return _measure_all(Common(session, splits, progress), wanted, checkpoints)


def _measure_all(common: Common, wanted: Sequence[MethodRun], checkpoints: Path | None) -> list[Found]:
    kinds = [known_method(run.method) for run in wanted]
    found: dict[int, Found] = {}
    together = [
        at
        for at, (run, kind) in enumerate(zip(wanted, kinds, strict=True))
        if kind is Kind.BIASES or (run.method == "head_only" and not common.searches_head)
    ]
    found |= zip(together, train_together(common, [wanted[at] for at in together], checkpoints), strict=True)
    for at, (run, kind) in enumerate(zip(wanted, kinds, strict=True)):
        if at in found:
            continue
        found[at] = attempt(run, partial(_way(run.method, kind), common, run))
    return [found[at] for at in range(len(wanted))]
