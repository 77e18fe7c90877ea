"""The metrics as ``evaluate`` modules that need no hub: scikit-learn inside, predictions kept in memory.

``evaluate.load`` asks the hub whatever it is told, so each metric is a local subclass. By default ``evaluate`` writes
predictions to Arrow files in the home folder, where parallel processes wait for each other's locks and a read-only
home fails; these modules keep them in memory and make no folder. Importing this module imports ``evaluate`` (seconds).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from beft.errors import InputError

_DESCRIPTION = """
Args:
    predictions: Predicted label indices [rows].
    references: True label indices [rows].

Returns:
    The metric's name and its value.
"""


class LabelMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """What all metrics of label indices share: their features, memory instead of files, checked input."""

    def __init__(self, config_name: str | None = None, *, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(config_name, keep_in_memory=keep_in_memory, **{"seed": 0, **options})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=(type(self).__doc__ or "").strip(),
            citation="",
            inputs_description=_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _build_data_dir(self) -> str:
        return str(self._data_dir_root) if self.keep_in_memory else str(super()._build_data_dir())

    def _finalize(self) -> None:
        if self.keep_in_memory and self.buf_writer is None:
            raise InputError(f"{self.name}: no rows; add predictions and references before compute")
        super()._finalize()

    def add_batch(self, *, predictions: Any = None, references: Any = None, **other: Any) -> None:
        """Add several rows: label indices, the same number of predictions and references.

        Raises:
            InputError: Anything but label indices, or different numbers of them.
        """
        predictions, references = _label_indices(predictions), _label_indices(references)
        if len(predictions) != len(references):
            raise InputError(f"{len(predictions)} predictions for {len(references)} references")
        super().add_batch(predictions=predictions, references=references, **other)

    def add(self, *, prediction: Any = None, reference: Any = None, **other: Any) -> None:
        """Add one row: a predicted and a true label index.

        Raises:
            InputError: Anything but label indices.
        """
        (prediction,), (reference,) = _label_indices([prediction]), _label_indices([reference])
        super().add(prediction=prediction, reference=reference, **other)

    def _compute(self, *, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        if len(references) == 0:
            raise InputError(f"{self.name}: no rows")
        return {self.name: self._value(np.asarray(references), np.asarray(predictions))}

    @abstractmethod
    def _value(self, truth: Any, predicted: Any) -> float:
        """The metric of label indices, both of shape [rows]."""


class Accuracy(LabelMetric):
    """The share of rows whose predicted label is the true one."""

    def _value(self, truth: Any, predicted: Any) -> float:
        return float(accuracy_score(truth, predicted))


class F1(LabelMetric):
    """The F1 of the second of two labels (index 1); 0 when it is neither true nor predicted anywhere."""

    def _value(self, truth: Any, predicted: Any) -> float:
        if max(truth.max(), predicted.max()) > 1:
            raise InputError("f1 is for two labels (0 and 1); use macro_f1 instead")
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


MODULES: dict[str, type[LabelMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "macro_f1": MacroF1,
    "matthews": Matthews,
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
