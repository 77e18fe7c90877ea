"""Two versions on rows that both have answered already, with the true labels that were told later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beft.comparison.versions import (
    CHALLENGER,
    CHAMPION,
    VersionComparison,
    majority_score,
    paired_gain,
    sliced_gains,
)
from beft.encoding.examples import Predictions
from beft.errors import InputError
from beft.evaluation.promotion.rules import PromotionRules
from beft.evaluation.promotion.verdict import Side
from beft.metrics.registry import score_predictions
from beft.metrics.truth import Truth
from beft.settings import Settings


@dataclass(frozen=True)
class AnsweredRows:
    """The same rows, answered by challenger and champion.

    Attributes:
        predictions: By version: probabilities [rows, labels], scores [rows, labels] where a row can have several
            labels, or values [rows].
        labels: Names of the classes, in the order of the probabilities; none for values.
        truth: The number of each row's label, or its value; or where a row can have several labels, 1 or 0 for each
            [rows, labels].
        lengths: Tokens of each row.
        adapter_bytes: By version: what its adapter takes on disk.
        seen_before: Rows that a version was trained on, which are left out here.
    """

    predictions: Mapping[str, Predictions]
    labels: Sequence[str]
    truth: Sequence[float] | np.ndarray
    lengths: np.ndarray
    adapter_bytes: Mapping[str, int]
    seen_before: int


def compare_answers(rows: AnsweredRows, metric: str, rules: PromotionRules, settings: Settings) -> VersionComparison:
    """Compare a challenger with a champion on rows that both have answered.

    How answers change when a text is perturbed, and how long they take, is not measured on them.

    Raises:
        InputError: There are fewer than two rows.
    """
    if len(rows.truth) < 2:
        raise InputError(
            f"{len(rows.truth)} labelled rows were answered by both versions and trained on by neither; serve with "
            "--shadow and tell true labels (POST /v1/feedback, or beft feedback FILE)"
        )
    sets = isinstance(rows.truth, np.ndarray)
    if sets:
        truth = Truth(label_sets=rows.truth)
    else:
        truth = Truth(labels=[int(one) for one in rows.truth]) if rows.labels else Truth(values=list(rows.truth))
    sides = {
        name: Side(
            name=name,
            score=score_predictions(metric, rows.predictions[name], truth),
            flips={},
            seconds_a_row=None,
            adapter_bytes=rows.adapter_bytes[name],
        )
        for name in (CHALLENGER, CHAMPION)
    }
    names: list[Any] = []
    if sets:
        names = [[rows.labels[number] for number in np.flatnonzero(of_row).tolist()] for of_row in rows.truth]
    elif rows.labels:
        names = [rows.labels[int(one)] for one in rows.truth]
    slices, left_out = (
        sliced_gains(rows.predictions, rows.truth, names, rows.lengths, rules, settings, groups=None, columns={})
        if rows.labels
        else ([], 0)
    )
    return VersionComparison(
        metric,
        len(rows.truth),
        rows.seen_before,
        majority_score(metric, len(rows.labels), truth),
        sides,
        paired_gain(metric, rows.predictions, truth, rules, settings),
        slices,
        left_out,
    )
