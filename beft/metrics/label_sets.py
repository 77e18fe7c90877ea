"""Metrics of label sets, where a row can have several labels or none; and the thresholds from which labels are given.

A prediction is a score for each label of a row, from 0 to 1, and a label is given from 0.5 on. Where a label has a
threshold of its own, its score is its probability moved on the scale of logits so that the threshold stands at 0.5.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SET_FROM = 0.5
"""The score from which a label is given."""
_LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1, where their logits are infinite."""
_BELOW_ALL = 0.5
"""How far, as a logit, a threshold lies below all probabilities where every row is given the label."""


class SetCounts(NamedTuple):
    """Sums of row weights: the first three of each label [..., labels], the others [...]."""

    hits: Floats
    predicted: Floats
    true: Floats
    exact: Floats
    rows: Floats

    @classmethod
    def of_sums(cls, sums: Floats) -> "SetCounts":
        """The counts from weighted sums [..., 3 * labels + 2] of ``set_parts``."""
        hits, predicted, true = np.split(sums[..., :-2], 3, axis=-1)
        return cls(hits, predicted, true, sums[..., -2], sums[..., -1])


def set_parts(truth: Integers, predicted: Integers) -> Floats:
    """What each row adds to the counts [rows, 3 * labels + 2]: hits, predictions and truths; wholly right; rows.

    Args:
        truth: True label sets, 0 or 1 [rows, labels].
        predicted: Predicted label sets [rows, labels].
    """
    exact = (truth == predicted).all(1, keepdims=True)
    parts = [truth * predicted, predicted, truth, exact, np.ones_like(exact)]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts], axis=1)


def micro_f1(counts: SetCounts) -> Floats:
    """The F1 of all labels together; 0 where no label is true or given anywhere."""
    size = (counts.predicted + counts.true).sum(-1)
    return np.asarray(np.divide(2 * counts.hits.sum(-1), size, out=np.zeros_like(size), where=size > 0))


def macro_f1_of_sets(counts: SetCounts) -> Floats:
    """The mean F1 over the labels that are true or given somewhere; 0 where none is."""
    size = counts.predicted + counts.true
    each = np.divide(2 * counts.hits, size, out=np.zeros_like(size), where=size > 0)
    return np.asarray(each.sum(-1) / np.maximum((size > 0).sum(-1), 1))


def subset_accuracy(counts: SetCounts) -> Floats:
    """The share of rows whose whole set is right."""
    return np.asarray(counts.exact / counts.rows)


def choose_thresholds(probabilities: Floats, truth: Integers) -> Floats:
    """For each label the threshold with the best F1 on these rows [labels], as probabilities.

    Of thresholds that are equally good, the one nearest to 0.5. A label that no row has keeps 0.5. A threshold lies
    halfway between the logits that it divides, or at 0.5 where that divides the rows in the same way.

    Args:
        probabilities: Of each label [rows, labels].
        truth: True label sets, 0 or 1 [rows, labels].
    """
    logits = _logit(np.clip(probabilities, _LEAST, 1 - _LEAST))
    order = np.argsort(-logits, axis=0, kind="stable")
    upper = np.take_along_axis(logits, order, axis=0)  # of the last row that is given the label
    hits = np.cumsum(np.take_along_axis(np.asarray(truth, dtype=np.float64), order, axis=0), axis=0)
    given, positive = np.arange(1, len(upper) + 1)[:, None], hits[-1]
    lower = np.concatenate([upper[1:], np.minimum(upper[-1:], 0) - 2 * _BELOW_ALL])  # of the first row that is not
    places = np.where((lower < 0) & (upper >= 0), 0.0, (lower + upper) / 2)
    scores = np.where(upper > lower, 2 * hits / (given + positive), -1.0)
    distance = np.where(scores >= scores.max(0) - 1e-12, np.abs(places), np.inf)
    chosen = np.take_along_axis(places, distance.argmin(0)[None], axis=0)[0]
    return _expit(np.where(positive > 0, chosen, 0.0))


def scores_from(probabilities: Floats, thresholds: Floats) -> Floats:
    """The scores of probabilities [rows, labels] under a threshold for each label [labels]: given from 0.5 on."""
    return _expit(_logit(probabilities) - _logit(thresholds))


def probabilities_from(scores: Floats, thresholds: Floats) -> Floats:
    """The probabilities [rows, labels] that have these scores under a threshold for each label [labels]."""
    return _expit(_logit(scores) + _logit(thresholds))


def set_confidence(probabilities: Floats, given: NDArray[np.bool_]) -> Floats:
    """The mean over the labels of the probability of what is answered: that it is given, or that it is not [rows]."""
    return np.asarray(np.where(given, probabilities, 1 - probabilities).mean(-1))


def scores_at_best(probabilities: Floats, truth: Integers) -> Floats:
    """The scores of probabilities [rows, labels] under the thresholds that are best on these very rows.

    How candidates are compared on dev, since each gets its thresholds there. Probabilities that are not all finite stay
    as they are.
    """
    if not np.isfinite(probabilities).all():
        return probabilities
    return scores_from(probabilities, choose_thresholds(probabilities, truth))


def _logit(probabilities: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probabilities) - np.log1p(-np.asarray(probabilities)))


def _expit(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)))
