"""The metrics of classification: their names, their vectorised form, and their form as ``evaluate`` metrics.

A metric has two forms that must agree (a test compares them on every resample):

- ``metric(name)`` gives an ``evaluate.Metric`` that computes with scikit-learn, without a hub and without cache files;
- ``known_metric(name).from_counts`` computes the same number for thousands of resamples at once, for the intervals.

Only the first form imports ``evaluate``, which takes seconds, and only when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from beft.errors import InputError
from beft.metrics.counts import LabelCounts, accuracy, f1, label_counts, macro_f1, matthews
from beft.names import known_name

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["METRICS", "MetricKind", "combined", "known_metric", "metric", "score"]


@dataclass(frozen=True)
class MetricKind:
    """One metric.

    Attributes:
        name: How settings, tables and files call it.
        title: How people read it.
        from_counts: Its value [...] from label counts [..., labels]; never NaN.
        lowest: The worst value that it can take.
        labels: How many labels it asks for; none: any number.
    """

    name: str
    title: str
    from_counts: "Callable[[LabelCounts], NDArray[np.float64]]"
    lowest: float = 0.0
    labels: int | None = None

    def check_labels(self, labels: int) -> None:
        """Raise an InputError when the metric is not defined for so many labels."""
        if self.labels is not None and labels != self.labels:
            raise InputError(f"{self.name} is for {self.labels} labels, not {labels}; use macro_f1 instead")


METRICS: dict[str, MetricKind] = {
    kind.name: kind
    for kind in (
        MetricKind("accuracy", "Accuracy", accuracy),
        MetricKind("f1", "F1 of the second label", f1, labels=2),
        MetricKind("macro_f1", "Macro F1", macro_f1),
        MetricKind("matthews", "Matthews correlation", matthews, lowest=-1.0),
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

    Its ``compute(predictions=…, references=…)`` takes label indices and returns ``{name: value}``.

    Args:
        options: Passed to ``evaluate.Metric``, for example ``keep_in_memory=False`` with ``num_process``.

    Raises:
        InputError: There is no metric of that name; the message names the nearest.
    """
    known_metric(name)
    from beft.metrics.modules import MODULES

    return MODULES[name](**options)


def combined(names: Sequence[str]) -> Any:
    """Make one ``evaluate.combine`` of several metrics; its ``compute`` returns ``{name: value, …}``.

    Raises:
        InputError: One of the names is unknown.
    """
    modules = [metric(name) for name in names]
    import evaluate

    return evaluate.combine(modules)


def score(name: str, truth: "ArrayLike", predicted: "ArrayLike", labels: int) -> float:
    """The value of a metric for one set of predictions, by its vectorised form.

    Args:
        truth: True label indices [rows].
        predicted: Predicted label indices [rows].
        labels: How many labels there are.

    Raises:
        InputError: An unknown metric, or one that is not defined for so many labels.
    """
    kind = known_metric(name)
    kind.check_labels(labels)
    truth = np.asarray(truth)
    return float(kind.from_counts(label_counts(truth, np.asarray(predicted), np.ones(len(truth)), labels)))
