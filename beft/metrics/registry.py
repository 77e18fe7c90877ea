"""The metrics: one record each, with its vectorised form and its form as an ``evaluate`` metric.

A metric compares predictions with a ``Truth``: probabilities with true labels or label sets, spans with true spans,
numbers with true values, or texts with accepted answers (``known_metric(name).takes`` says which). It has two forms
that must agree (a test compares them on resamples):

- ``metric(name)`` gives an ``evaluate.Metric`` that computes with scikit-learn and SciPy, without a hub and without
  cache files;
- ``known_metric(name).weighed`` computes the same number for thousands of resamples at once, for the intervals.

``score_predictions`` is the one call for training and evaluation. Only the first form imports ``evaluate``, which takes
seconds, and only when it is called.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beft.errors import InputError
from beft.metrics.counts import accuracy, f1, macro_f1, matthews
from beft.metrics.drop import drop_exact_match, drop_f1
from beft.metrics.kinds import (
    GroupExactMatchKind,
    LabelKind,
    LabelSetKind,
    MetricKind,
    SpanKind,
    TextKind,
    ValueKind,
)
from beft.metrics.label_sets import SET_FROM, macro_f1_of_sets, micro_f1, subset_accuracy
from beft.metrics.spans import checked_spans, entity_f1, entity_precision, entity_recall
from beft.metrics.texts import checked_texts, squad_exact_match, squad_f1
from beft.metrics.truth import Truth
from beft.metrics.values import Pearson, Spearman
from beft.names import known_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Predictions = ArrayLike | Sequence[str] | Sequence[Sequence[Sequence[float]]]

__all__ = [
    "METRICS",
    "MetricKind",
    "Truth",
    "combined",
    "known_metric",
    "metric",
    "rank_on_dev",
    "score",
    "score_predictions",
]

_F1 = {"zero_division": 0.0}
_MACRO_F1 = {"average": "macro", **_F1}

METRICS: dict[str, MetricKind] = {
    kind.name: kind
    for kind in (
        LabelKind(name="accuracy", title="Accuracy", from_counts=accuracy, scikit_learn="accuracy_score"),
        LabelKind(
            name="f1", title="F1 of the second label", from_counts=f1, labels=2, scikit_learn="f1_score", options=_F1
        ),
        LabelKind(name="macro_f1", title="Macro F1", from_counts=macro_f1, scikit_learn="f1_score", options=_MACRO_F1),
        LabelKind(
            name="matthews",
            title="Matthews correlation",
            from_counts=matthews,
            lowest=-1.0,
            scikit_learn="matthews_corrcoef",
        ),
        LabelKind(
            name="multirc_f1",
            title="F1 over all answers",
            from_counts=f1,
            labels=2,
            scikit_learn="f1_score",
            options=_F1,
        ),
        GroupExactMatchKind(name="multirc_exact_match", title="Questions answered wholly right", labels=2),
        LabelSetKind(
            name="micro_f1",
            title="Micro F1 of label sets",
            from_counts=micro_f1,
            scikit_learn="f1_score",
            options={"average": "micro", **_F1},
        ),
        LabelSetKind(
            name="multi_label_macro_f1",
            title="Macro F1 of label sets",
            from_counts=macro_f1_of_sets,
            scikit_learn="f1_score",
            options={"average": "macro", "zero_division": np.nan},  # the mean over labels that are true or given
        ),
        LabelSetKind(
            name="subset_accuracy",
            title="Rows whose label set is wholly right",
            from_counts=subset_accuracy,
            scikit_learn="accuracy_score",
        ),
        SpanKind(name="entity_f1", title="F1 of entities", from_counts=entity_f1),
        SpanKind(name="entity_precision", title="Precision of entities", from_counts=entity_precision),
        SpanKind(name="entity_recall", title="Recall of entities", from_counts=entity_recall),
        ValueKind(name="pearson", title="Pearson correlation", correlation=Pearson, lowest=-1.0, scipy="pearsonr"),
        ValueKind(name="spearman", title="Spearman correlation", correlation=Spearman, lowest=-1.0, scipy="spearmanr"),
        TextKind(name="squad_exact_match", title="Exact match", row_score=squad_exact_match),
        TextKind(name="squad_f1", title="F1 of words", row_score=squad_f1),
        TextKind(name="record_exact_match", title="Exact match", row_score=squad_exact_match),
        TextKind(name="record_f1", title="F1 of words", row_score=squad_f1),
        TextKind(name="drop_exact_match", title="Exact match of spans", row_score=drop_exact_match),
        TextKind(name="drop_f1", title="F1 of spans and numbers", row_score=drop_f1),
    )
}


def known_metric(name: str) -> MetricKind:
    """Look a metric up.

    Raises:
        InputError: There is none of that name; the message names the nearest.
    """
    return METRICS[known_name(name, METRICS, "metric")]


def metric(name: str, **options: Any) -> Any:
    """Make the ``evaluate.Metric`` of that name; it works without network and writes no file.

    Its ``compute(predictions=…, references=…)`` returns ``{name: value}``. It takes label indices for a metric of
    labels (and ``groups=…`` for one of groups), lists of spans for one of spans, numbers for one of values, texts and
    lists of answers for one of texts.

    Args:
        options: Passed to ``evaluate.Metric``, for example ``keep_in_memory=False`` with ``num_process``.

    Raises:
        InputError: There is no metric of that name; the message names the nearest.
    """
    kind = known_metric(name)
    from beft.metrics.local_metric import LocalMetric

    return LocalMetric(kind, **options)


def combined(names: Sequence[str]) -> Any:
    """Make one ``evaluate.combine`` of several metrics; its ``compute`` returns ``{name: value, …}``.

    Raises:
        InputError: One of the names is unknown.
    """
    modules = [metric(name) for name in names]
    import evaluate

    return evaluate.combine(modules)


def score_predictions(name: str, predictions: "Predictions", truth: Truth) -> float:
    """The value of a metric for one set of predictions, by its vectorised form; never NaN.

    Args:
        predictions: Probabilities [rows, labels] for a metric of labels, of which the greatest counts (the first of
            equals); scores [rows, labels] for one of label sets, where every label from 0.5 on is given; a list of
            spans a row for one of spans; numbers [rows] for one of values; texts for one of texts. Where one is NaN or
            infinite, as a training that diverged may give, they score the worst that the metric can be.

    Raises:
        InputError: An unknown metric, a truth without what the metric compares with, predictions of the wrong shape, or
            labels that the metric is not defined for.
    """
    kind = known_metric(name)
    of_labels = kind.takes in ("labels", "label_sets")
    true, labels, predicted = kind.of_truth(truth), 0, predictions
    listed = kind.takes in ("texts", "spans")
    if listed:
        predicted = checked_texts(predictions) if kind.takes == "texts" else checked_spans(predictions)
        shape: tuple[int, ...] = (len(predicted),)
    else:
        try:
            predicted = np.asarray(predictions, dtype=np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{name}: predictions must be numbers, the same number of them in every row") from None
        shape = predicted.shape
    if shape[:1] != (truth.rows,) or len(shape) != (2 if of_labels else 1) or 0 in shape:
        raise InputError(f"{name}: predictions of shape {list(shape)} for {truth.rows} rows")
    if kind.takes == "label_sets" and true.shape != shape:
        raise InputError(f"{name}: predictions of {shape[1]} labels for true sets of {true.shape[1]}")
    if kind.takes == "labels":
        labels = shape[1]
        kind.check_labels(labels)
        if true.min() < 0 or true.max() >= labels:
            raise InputError(f"{name}: true labels of {true.min()} to {true.max()} for predictions of {labels} labels")
    if not listed and not np.isfinite(np.asarray(predicted)).all():
        return kind.lowest
    if kind.takes == "labels":
        predicted = np.asarray(predicted).argmax(-1)
    if kind.takes == "label_sets":
        predicted = (np.asarray(predicted) >= SET_FROM).astype(np.int64)
    unit = truth.group_of_row()
    units = truth.rows if unit is None else int(unit.max()) + 1
    return float(kind.weighed(true, predicted, unit, labels)(np.ones(units)))


def rank_on_dev(metric: float, loss: float) -> tuple[float, float]:
    """How good something is on dev, the greater the better: the metric, and of equal ones the lower loss.

    Where one of the two is NaN or infinite it is the worst: NaN compares with nothing, and a choice among such would
    hang on their order.
    """
    return (metric, -loss) if math.isfinite(metric) and math.isfinite(loss) else (-math.inf, -math.inf)


def score(name: str, truth: "ArrayLike", predicted: "ArrayLike", labels: int) -> float:
    """The value of a metric of labels for one set of predicted labels, by its vectorised form.

    Args:
        truth: True label indices [rows].
        predicted: Predicted label indices [rows].
        labels: How many labels there are.

    Raises:
        InputError: An unknown metric, one that is not of labels, or one that is not defined for so many labels.
    """
    kind = known_metric(name)
    kind.check_labels(labels)
    true = kind.of_truth(Truth(labels=truth))
    return float(kind.weighed(true, np.asarray(predicted), labels=labels)(np.ones(len(true))))
