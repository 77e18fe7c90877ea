"""The metrics as ``evaluate`` modules that need no hub: scikit-learn and SciPy inside, predictions kept in memory.

``evaluate.load`` asks the hub whatever it is told, so each metric is a local subclass. By default ``evaluate`` writes
predictions to Arrow files in the home folder, where parallel processes wait for each other's locks and a read-only
home fails; these modules keep them in memory and make no folder. Importing this module imports ``evaluate`` (seconds).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from beft.errors import InputError
from beft.metrics.drop import drop_exact_match, drop_f1
from beft.metrics.texts import checked_texts, squad_exact_match, squad_f1

_DESCRIPTION = """
Args:
    predictions: {predictions} [rows].
    references: {references} [rows].

Returns:
    The metric's name and its value.
"""


class LocalMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """What all metrics share: memory instead of files, and checked input."""

    predictions: ClassVar[str]
    references: ClassVar[str]
    columns: ClassVar[dict[str, Any]]

    def __init__(self, config_name: str | None = None, *, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(config_name, keep_in_memory=keep_in_memory, **{"seed": 0, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description=_DESCRIPTION.format(predictions=self.predictions, references=self.references),
            features=datasets.Features(self.columns),
        )

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root) if self.keep_in_memory else str(super()._build_data_dir())

    def _finalize(self) -> None:
        if self.keep_in_memory and self.buf_writer is None:
            raise InputError(f"{self.name}: no rows; add predictions and references before compute")
        super()._finalize()

    def add_batch(self, *, predictions: Any = None, references: Any = None, **other: Any) -> None:
        """Add several rows, the same number of predictions and references.

        Raises:
            InputError: Anything but what the metric compares, or different numbers of them.
        """
        predictions, references = self._checked(predictions), self._checked_references(references)
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions for {len(references)} references")
        super().add_batch(predictions=predictions, references=references, **other)

    def add(self, *, prediction: Any = None, reference: Any = None, **other: Any) -> None:
        """Add one row: a prediction and its reference.

        Raises:
            InputError: Anything but what the metric compares.
        """
        (prediction,), (reference,) = self._checked([prediction]), self._checked_references([reference])
        super().add(prediction=prediction, reference=reference, **other)

    def _compute(self, *, predictions: Any, references: Any, groups: Any = None) -> dict[str, float]:
        if len(references) == 0:
            raise InputError(f"{self.name}: no rows")
        # ``evaluate.combine`` hands the groups to every metric when one of them asks for groups.
        other = {"groups": groups} if "groups" in self.columns else {}
        return {self.name: self._value(references, predictions, **other)}

    @abstractmethod
    def _checked(self, values: Any) -> list[Any]:
        """Predictions as a list; an InputError when they are of another kind."""

    def _checked_references(self, values: Any) -> list[Any]:
        return self._checked(values)

    @abstractmethod
    def _value(self, truth: Any, predicted: Any) -> float:
        """The metric of references and predictions [rows]."""


class LabelMetric(LocalMetric):
    """What all metrics of label indices share."""

    predictions = "Predicted label indices"
    references = "True label indices"
    columns: ClassVar[dict[str, Any]] = {
        "predictions": datasets.Value("int64"),
        "references": datasets.Value("int64"),
    }

    def _checked(self, values: Any) -> list[Any]:
        return _label_indices(values)


class Accuracy(LabelMetric):
    """The share of rows whose predicted label is the true one."""

    def _value(self, truth: Any, predicted: Any) -> float:
        return float(accuracy_score(truth, predicted))


class F1(LabelMetric):
    """The F1 of the second of two labels (index 1); 0 when it is neither true nor predicted anywhere."""

    def _value(self, truth: Any, predicted: Any) -> float:
        if max(*truth, *predicted) > 1:
            raise InputError(f"{self.name} is for two labels (0 and 1); use macro_f1 instead")
        return float(f1_score(truth, predicted, pos_label=1, average="binary", zero_division=0.0))


class MacroF1(LabelMetric):
    """The mean F1 over the labels that are true or predicted somewhere."""

    def _value(self, truth: Any, predicted: Any) -> float:
        return float(f1_score(truth, predicted, average="macro", zero_division=0.0))


class Matthews(LabelMetric):
    """The Matthews correlation, for two or more labels; 0 when truth or predictions are constant."""

    def _value(self, truth: Any, predicted: Any) -> float:
        if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return float(matthews_corrcoef(truth, predicted))


class MultircF1(F1):
    """The F1 of the label "right" (index 1) over the answers of all questions (MultiRC's F1a)."""


class MultircExactMatch(LabelMetric):
    """The share of questions all of whose answers are judged rightly; ``groups`` names each answer's question."""

    columns: ClassVar[dict[str, Any]] = {**LabelMetric.columns, "groups": datasets.Value("string")}

    def _value(self, truth: Any, predicted: Any, groups: Sequence[str] = ()) -> float:
        judged: dict[str, bool] = {}
        for group, true, guess in zip(groups, truth, predicted, strict=True):
            judged[group] = judged.get(group, True) and true == guess
        return sum(judged.values()) / len(judged)


class ValueMetric(LocalMetric):
    """What the correlations share; both are 0 when truth or predictions are constant."""

    predictions = "Predicted numbers"
    references = "True numbers"
    columns: ClassVar[dict[str, Any]] = {
        "predictions": datasets.Value("float64"),
        "references": datasets.Value("float64"),
    }

    def _checked(self, values: Any) -> list[Any]:
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise InputError(f"{self.name} compares finite numbers, one a row")
        return [float(value) for value in array]

    def _value(self, truth: Any, predicted: Any) -> float:
        if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
            return 0.0
        return self._correlation(truth, predicted)

    @abstractmethod
    def _correlation(self, truth: Any, predicted: Any) -> float:
        """The correlation of numbers that vary, both of shape [rows]."""


class Pearson(ValueMetric):
    """The Pearson correlation; 0 when truth or predictions are constant."""

    def _correlation(self, truth: Any, predicted: Any) -> float:
        return float(pearsonr(truth, predicted).statistic)


class Spearman(ValueMetric):
    """The Spearman correlation: of ranks, the mean rank for equal numbers; 0 when one side is constant."""

    def _correlation(self, truth: Any, predicted: Any) -> float:
        return float(spearmanr(truth, predicted).statistic)


class TextMetric(LocalMetric):
    """What the metrics of answers in words share: a score a row, and its mean."""

    predictions = "Predicted texts"
    references = "Lists of accepted answers"
    columns: ClassVar[dict[str, Any]] = {
        "predictions": datasets.Value("string"),
        "references": datasets.Sequence(datasets.Value("string")),
    }

    def _checked(self, values: Any) -> list[Any]:
        return checked_texts(values)

    def _checked_references(self, values: Any) -> list[Any]:
        found = [checked_texts(answers) for answers in values]
        if not all(found):
            raise InputError(f"{self.name}: every row needs an accepted answer")
        return found

    def _value(self, truth: Any, predicted: Any) -> float:
        scores = [self._row_score(text, answers) for text, answers in zip(predicted, truth, strict=True)]
        return sum(scores) / len(scores)

    @abstractmethod
    def _row_score(self, prediction: str, answers: Sequence[str]) -> float:
        """How right one text is, 0 to 1."""


class SquadExactMatch(TextMetric):
    """The share of texts that are an accepted answer after SQuAD v1.1's normalisation."""

    def _row_score(self, prediction: str, answers: Sequence[str]) -> float:
        return squad_exact_match(prediction, answers)


class SquadF1(TextMetric):
    """The mean F1 of words with the nearest accepted answer, as SQuAD v1.1 has it."""

    def _row_score(self, prediction: str, answers: Sequence[str]) -> float:
        return squad_f1(prediction, answers)


class RecordExactMatch(SquadExactMatch):
    """ReCoRD's exact match: SQuAD's, over the entities that are accepted."""


class RecordF1(SquadF1):
    """ReCoRD's F1: SQuAD's, over the entities that are accepted."""


class DropExactMatch(TextMetric):
    """The share of texts whose spans are those of an accepted answer after DROP's normalisation."""

    def _row_score(self, prediction: str, answers: Sequence[str]) -> float:
        return drop_exact_match(prediction, answers)


class DropF1(TextMetric):
    """The mean F1 of aligned spans with the nearest accepted answer, as DROP has it."""

    def _row_score(self, prediction: str, answers: Sequence[str]) -> float:
        return drop_f1(prediction, answers)


MODULES: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews": Matthews,
    "multirc_f1": MultircF1,
    "multirc_exact_match": MultircExactMatch,
    "pearson": Pearson,
    "spearman": Spearman,
    "squad_exact_match": SquadExactMatch,
    "squad_f1": SquadF1,
    "record_exact_match": RecordExactMatch,
    "record_f1": RecordF1,
    "drop_exact_match": DropExactMatch,
    "drop_f1": DropF1,
}


def _label_indices(values: Any) -> list[int]:
    """Label indices as a list; anything else (probabilities, text) is an error, where ``evaluate`` would cut it."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"label indices must be a list of whole numbers, not of shape {array.shape}")
    if array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and np.all(array == np.floor(array))):
        raise InputError("label indices must be whole numbers; take the most probable label of each row first")
    if array.size and array.min() < 0:
        raise InputError(f"label indices must not be negative, got {array.min()}")
    return [int(value) for value in array]
