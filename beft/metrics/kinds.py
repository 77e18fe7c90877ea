"""The kinds of metrics: of labels, of groups of labels, of label sets, of spans, of values, of texts.

Each names what it takes of a truth and of predictions, and computes in two ways: ``value`` is the metric of one run, by
scikit-learn and SciPy; ``weighed`` is the same metric under many weightings of the rows (or groups of rows) at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from beft.errors import InputError
from beft.metrics.counts import LabelCounts, label_parts
from beft.metrics.label_sets import SetCounts, set_parts
from beft.metrics.spans import SpanCounts, span_parts
from beft.metrics.texts import RowScore
from beft.metrics.truth import Truth
from beft.metrics.weighed import Floats, Integers, Sums, Weighed, added_by_unit, mean_of

Taken = Literal["labels", "label_sets", "spans", "values", "texts"]


@dataclass(frozen=True, kw_only=True)
class MetricKind(ABC):
    """One metric.

    Attributes:
        name: How settings, tables and files call it.
        title: How people read it.
        lowest: The worst value that it can take; the best is 1.
        labels: How many labels it asks for; `None`: any number.
        takes: What it compares: ``labels`` (predictions are probabilities [rows, labels], the greatest counts),
            ``label_sets`` (scores [rows, labels], every label from 0.5 on is given), ``spans`` (the spans of each row),
            ``values`` (numbers [rows]) or ``texts`` (one text a row).
        grouped: Whether it is not defined without groups of rows.
    """

    name: str
    title: str
    lowest: float = 0.0
    labels: int | None = None
    takes: ClassVar[Taken]
    grouped: ClassVar[bool] = False

    @abstractmethod
    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run.

        Args:
            truth: True label indices or values [rows], label sets [rows, labels], or the spans or accepted answers of
                each row.
            predicted: Predicted label indices or values [rows], label sets [rows, labels], spans of each row, or texts.
            groups: What each row belongs to [rows]; only a grouped metric needs it.
        """

    @abstractmethod
    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Weighed:
        """The metric of one run, to be computed under weights.

        Args:
            truth: True label indices or values [rows], or the spans or accepted answers of each row.
            predicted: Predicted label indices or values [rows], spans of each row, or texts.
            unit: The number of the unit of each row [rows], all from 0 on; `None`: every row is a unit.
            labels: How many labels there are, for a metric of labels.
        """

    @property
    def sign(self) -> str:
        """What stands behind the value times 100, as tables of GLUE show all metrics: shares are in percent."""
        return " %" if self.lowest == 0 else ""

    def check_labels(self, labels: int) -> None:
        """Raise an InputError when the metric is not defined for so many labels."""
        if self.labels is not None and labels != self.labels:
            raise InputError(f"{self.name} is for {self.labels} labels, not {labels}; use macro_f1 instead")

    def of_truth(self, truth: Truth) -> Any:
        """What the metric compares with: label indices, values, or the answers of each row.

        Raises:
            InputError: The truth lacks it, or lacks the groups that the metric is of.
        """
        needed = "answers" if self.takes == "texts" else self.takes
        found = getattr(truth, needed)
        if found is None:
            kinds = ("labels", "label_sets", "spans", "values", "answers")
            known = " and ".join(name for name in kinds if getattr(truth, name) is not None).replace("_", " ")
            raise InputError(f"{self.name} compares with true {needed.replace('_', ' ')}; these rows have {known}")
        if self.grouped and truth.groups is None:
            raise InputError(f"{self.name} needs to know which rows belong together: give the truth its groups")
        if self.takes in ("texts", "spans"):
            return found
        return np.asarray(found, dtype=np.float64 if self.takes == "values" else np.int64)


@dataclass(frozen=True, kw_only=True)
class LabelKind(MetricKind):
    """A metric of label indices that needs three counts of each label; see ``counts``.

    Attributes:
        from_counts: The metric from weighted counts.
        scikit_learn: The function of ``sklearn.metrics`` that computes it for one run.
        options: The options of this function.
    """

    from_counts: Callable[[LabelCounts], Floats]
    scikit_learn: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes = "labels"

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run, by the function of ``sklearn.metrics``; a correlation with a constant is 0."""
        import sklearn.metrics

        if self.labels is not None:
            self.check_labels(max(self.labels, *(int(label) + 1 for label in (*truth, *predicted))))
        if self.lowest < 0 and _constant(truth, predicted):
            return 0.0
        return float(getattr(sklearn.metrics, self.scikit_learn)(truth, predicted, **self.options))

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Sums:
        """The metric of one run, from weighted counts."""
        return Sums(added_by_unit(label_parts(truth, predicted, labels), unit), self._of_sums)

    def _of_sums(self, sums: Floats) -> Floats:
        return self.from_counts(LabelCounts(*np.split(sums, 3, axis=-1)))


@dataclass(frozen=True, kw_only=True)
class GroupExactMatchKind(MetricKind):
    """The share of groups all of whose rows are right (MultiRC, Khashabi et al. 2018)."""

    takes = "labels"
    grouped = True

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run."""
        import pandas as pd

        return float(pd.Series(np.equal(truth, predicted)).groupby(np.asarray(groups)).all().mean())

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Sums:
        """The metric of one run; the units are the groups."""
        wrong = np.bincount(np.arange(len(truth)) if unit is None else unit, weights=truth != predicted)
        return mean_of((wrong == 0).astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class LabelSetKind(MetricKind):
    """A metric of label sets, 1 or 0 for each row and label; see ``label_sets``.

    Attributes:
        from_counts: The metric from weighted counts.
        scikit_learn: The function of ``sklearn.metrics`` that computes it for one run.
        options: The options of this function.
    """

    from_counts: Callable[[SetCounts], Floats]
    scikit_learn: str
    options: Mapping[str, Any] = field(default_factory=dict)
    takes = "label_sets"

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run, by the function of ``sklearn.metrics``; 0 where no label is true or given."""
        import sklearn.metrics

        truth, predicted = np.asarray(truth), np.asarray(predicted)
        if self.options and not truth.any() and not predicted.any():
            return 0.0
        return float(getattr(sklearn.metrics, self.scikit_learn)(truth, predicted, **self.options))

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Sums:
        """The metric of one run, from weighted counts."""
        return Sums(added_by_unit(set_parts(truth, predicted), unit), self._of_sums)

    def _of_sums(self, sums: Floats) -> Floats:
        return self.from_counts(SetCounts.of_sums(sums))


@dataclass(frozen=True, kw_only=True)
class SpanKind(MetricKind):
    """A metric of the spans of each row, strict; see ``spans``.

    Attributes:
        from_counts: The metric from weighted counts.
    """

    from_counts: Callable[[SpanCounts], Floats]
    takes = "spans"

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run."""
        return float(self._of_sums(span_parts(truth, predicted).sum(0)))

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Sums:
        """The metric of one run, from weighted counts."""
        return Sums(added_by_unit(span_parts(truth, predicted), unit), self._of_sums)

    def _of_sums(self, sums: Floats) -> Floats:
        return self.from_counts(SpanCounts(*np.moveaxis(sums, -1, 0)))


@dataclass(frozen=True, kw_only=True)
class ValueKind(MetricKind):
    """A correlation of predicted and true values; see ``values``.

    Attributes:
        correlation: The correlation under weights.
        scipy: The function of ``scipy.stats`` that computes it for one run.
    """

    correlation: Callable[[Floats, Floats, Integers | None], Weighed]
    scipy: str
    takes = "values"

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The correlation of one run; 0 where one side is constant."""
        import scipy.stats

        return 0.0 if _constant(truth, predicted) else float(getattr(scipy.stats, self.scipy)(truth, predicted)[0])

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Weighed:
        """The metric of one run."""
        return self.correlation(truth, predicted, unit)


@dataclass(frozen=True, kw_only=True)
class TextKind(MetricKind):
    """The mean over rows of how right a text is; see ``texts`` and ``drop``."""

    row_score: RowScore
    takes = "texts"

    def value(self, truth: Any, predicted: Any, groups: Sequence[str] | None = None) -> float:
        """The metric of one run."""
        return float(self.row_scores(truth, predicted).mean())

    def row_scores(self, answers: Sequence[Sequence[str]], predicted: Sequence[str]) -> Floats:
        """The score of each row [rows], 0 to 1."""
        return np.array([self.row_score(text, of_row) for text, of_row in zip(predicted, answers, strict=True)])

    def weighed(self, truth: Any, predicted: Any, unit: Integers | None = None, labels: int = 0) -> Sums:
        """The metric of one run."""
        scores = mean_of(self.row_scores(truth, predicted))
        return Sums(added_by_unit(scores.parts, unit), scores.value)


def _constant(truth: Any, predicted: Any) -> bool:
    """Whether one side has one value only: a correlation is not defined there."""
    return bool(np.ptp(truth) == 0 or np.ptp(predicted) == 0)
