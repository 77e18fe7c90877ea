"""The importance of bias terms by runs that were measured side by side: a run of all bias terms is a probe."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from beft.comparison.common import Common
from beft.comparison.result import MethodResult, MethodRun
from beft.errors import BeftError
from beft.importance.probe_result import Scores
from beft.settings import ALL_BIASES
from beft.training.probe import moved_biases, row_information
from beft.training.session import Session

log = logging.getLogger("beft.comparison")


@dataclass(frozen=True, eq=False)
class ScoredProbe:
    """A run of all bias terms, and the importance of every term by what it moved."""

    probe: MethodResult
    scores: Scores


def score_probes(
    session: Session, results: Sequence[MethodResult], *, progress: Callable[[str], None] = log.info
) -> list[ScoredProbe]:
    """Score every bias term by each run of all bias terms.

    A probe that gives no scores is left out with a warning: it costs no other run its result.

    Args:
        results: Of any methods; those of others are passed over.
        progress: Takes one line of text at a time.
    """
    found = []
    for one in results:
        if one.run.method != ALL_BIASES:
            continue
        try:
            found.append(ScoredProbe(one, _scores(session, one, progress)))
        except BeftError as error:
            log.warning("%s of seed %d scores no term: %s", one.run.method, one.run.seed, error)
    return found


def _scores(session: Session, probe: MethodResult, progress: Callable[[str], None]) -> Scores:
    """The scores by one probe; Fisher information is taken before it, from the head of its seed."""
    common = Common(session, ("test",), progress)
    sites = tuple(probe.deltas)
    assert probe.training is not None
    head, size = common.head_start(probe.run.seed, probe.training), probe.training.batch_size
    information = row_information(session.classifier, common.sample.train, sites, head, batch_size=size)
    return moved_biases(session.classifier.model, probe.deltas, information, common.inert(sites)).scores(
        session.settings
    )


def scores_for(result: MethodResult, probes: Sequence[ScoredProbe]) -> Scores | None:
    """The scores by the probe of the same seed and length; of several, by the one of the same learning rate.

    The length counts where the runs name one: that of the settings may be another for a probe than for a run of the
    head alone, whose loss is another.

    Returns:
        None where there is no such probe, or none of several has the learning rate.
    """
    training = result.training
    if training is None:
        return None
    found = [
        (one.probe.training.learning_rate, one.scores)
        for one in probes
        if one.probe.training is not None
        and (one.probe.run.seed, _named_length(one.probe.run)) == (result.run.seed, _named_length(result.run))
    ]
    same = [scores for rate, scores in found if rate == training.learning_rate]
    return same[0] if same else found[0][1] if len(found) == 1 else None


def _named_length(run: MethodRun) -> int | None:
    return None if run.training is None else run.training.epochs
