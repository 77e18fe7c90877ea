"""Any metric as an ``evaluate.Metric`` that needs no hub and keeps predictions in memory.

``evaluate.load`` always asks the hub, so the metric is a local subclass. By default ``evaluate`` writes predictions to
Arrow files in the home folder, where parallel processes wait for each other's locks and a read-only home fails; this
class keeps them in memory and makes no folder. Importing this module imports ``evaluate`` (seconds).
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from beft.errors import InputError
from beft.metrics.kinds import MetricKind, Taken
from beft.metrics.spans import checked_spans
from beft.metrics.texts import checked_texts

_DESCRIPTION = """
Args:
    predictions: {predictions} [rows].
    references: {references} [rows].

Returns:
    The metric's name and its value.
"""
_INPUTS: dict[Taken, tuple[str, str]] = {
    "labels": ("Predicted label indices", "True label indices"),
    "label_sets": ("Predicted label sets, 0 or 1 for each label", "True label sets"),
    "spans": ("Predicted spans of each row: start, end, number of the label", "True spans"),
    "values": ("Predicted numbers", "True numbers"),
    "texts": ("Predicted texts", "Lists of accepted answers"),
}
_TYPES: dict[Taken, Any] = {
    "labels": datasets.Value("int64"),
    "label_sets": datasets.Sequence(datasets.Value("int64")),
    "spans": datasets.Sequence(datasets.Sequence(datasets.Value("int64"))),
    "values": datasets.Value("float64"),
    "texts": datasets.Value("string"),
}


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """The metric of one record of ``METRICS``."""

    def __init__(
        self, kind: MetricKind, config_name: str | None = None, *, keep_in_memory: bool = True, **options: Any
    ) -> None:
        self.kind = kind
        super().__init__(config_name, keep_in_memory=keep_in_memory, **{"seed": 0, **options})

    @property
    def name(self) -> str:
        """The name of the metric."""
        return self.kind.name

    def _info(self) -> evaluate.MetricInfo:
        predictions, references = _INPUTS[self.kind.takes]
        kind = _TYPES[self.kind.takes]
        columns = {"predictions": kind, "references": datasets.Sequence(kind) if self.kind.takes == "texts" else kind}
        return evaluate.MetricInfo(
            description=self.kind.title,
            citation="",
            inputs_description=_DESCRIPTION.format(predictions=predictions, references=references),
            features=datasets.Features(columns | ({"groups": datasets.Value("string")} if self.kind.grouped else {})),
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
        return {self.name: self.kind.value(references, predictions, groups)}

    def _checked(self, values: Any) -> list[Any]:
        """Values as a list; what the metric does not compare is an error, where ``evaluate`` would convert it."""
        if self.kind.takes == "texts":
            return checked_texts(values)
        if self.kind.takes == "spans":
            return [[list(span) for span in of_row] for of_row in checked_spans(values)]
        array = np.asarray(values)
        if self.kind.takes == "labels":
            return _label_indices(array)
        if self.kind.takes == "label_sets":
            if array.ndim != 2 or not np.isin(array, (0, 1)).all():
                raise InputError(f"{self.name} compares label sets: 0 or 1 for each label of each row")
            return [[int(value) for value in row] for row in array]
        if array.ndim != 1 or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise InputError(f"{self.name} compares finite numbers, one a row")
        return [float(value) for value in array]

    def _checked_references(self, values: Any) -> list[Any]:
        if self.kind.takes != "texts":
            return self._checked(values)
        found = [checked_texts(answers) for answers in values]
        if not all(found):
            raise InputError(f"{self.name}: every row needs an accepted answer")
        return found


def _label_indices(array: Any) -> list[int]:
    if array.ndim != 1:
        raise InputError(f"label indices must be a list of whole numbers, not of shape {array.shape}")
    if array.dtype.kind not in "iub" and not (array.dtype.kind == "f" and np.all(array == np.floor(array))):
        raise InputError("label indices must be whole numbers; take the most probable label of each row first")
    if array.size and array.min() < 0:
        raise InputError(f"label indices must not be negative, got {array.min()}")
    return [int(value) for value in array]
