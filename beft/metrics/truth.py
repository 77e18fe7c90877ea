"""What is true of the rows of a split, whatever the task: labels, spans, values or answers; and groups of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from beft.errors import InputError
from beft.metrics.spans import checked_spans

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of rows; at least one of labels, label sets, spans, values and answers.

    Attributes:
        labels: True label indices [rows].
        values: True numbers [rows], of a regression.
        label_sets: Whether each row has each label, 1 or 0 [rows, labels], where a row can have several or none.
        answers: The accepted answers of each row [rows][1 or more]; an answer of several spans has one on each line.
        groups: The name of what each row belongs to [rows], for example MultiRC's question; such rows are resampled
            together.
        spans: The labelled spans of each row [rows][any number]: start, end, and the number of the label.

    Raises:
        InputError: Nothing, different numbers of rows, labels or values that are not one number a row, labels that are
            not whole, values that are not finite, label sets that are not of 0 and 1, spans that are none, or a row
            without an answer.
    """

    labels: "ArrayLike | None" = None
    values: "ArrayLike | None" = None
    answers: Sequence[Sequence[str]] | None = None
    groups: Sequence[str] | None = None
    label_sets: "ArrayLike | None" = None
    spans: Sequence[Sequence[Sequence[float]]] | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given.keys() - {"groups"}:
            raise InputError("a truth needs labels, label sets, spans, values or answers")
        rows = {name: len(value) for name, value in given.items()}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{count} {name}" for name, count in rows.items())
            raise InputError(f"a truth must have the same number of rows in all its parts, not {counts}")
        for name in sorted(given.keys() & {"labels", "values"}):
            numbers = _numbers(given[name], name)
            if numbers.ndim != 1:
                raise InputError(f"true {name} must be one number a row, not of shape {list(numbers.shape)}")
            if name == "values" and not np.isfinite(numbers).all():
                raise InputError("some true values are not finite")
            if name == "labels" and not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
                raise InputError("true labels must be whole numbers; numbers to be predicted are values")
        if self.label_sets is not None:
            sets = _numbers(self.label_sets, "label sets")
            if sets.ndim != 2 or not np.isin(sets, (0, 1)).all():
                raise InputError(f"label sets must be 0 or 1 for each row and label, not of shape {list(sets.shape)}")
        if self.spans is not None:
            checked_spans(self.spans)
        for row, answers in enumerate(self.answers or ()):
            if isinstance(answers, str) or not len(answers) or not all(isinstance(one, str) for one in answers):
                raise InputError(f"the answers of row {row} must be a list of one or more texts, not {answers!r}")

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return next(len(value) for value in vars(self).values() if value is not None)

    def group_of_row(self) -> "NDArray[np.int64] | None":
        """The number of the group of each row [rows], from 0 in the order of the groups' names; none without groups."""
        if self.groups is None:
            return None
        return np.unique(np.asarray(self.groups), return_inverse=True)[1].astype(np.int64)


def _numbers(given: "ArrayLike", what: str) -> "NDArray[np.float64]":
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"true {what} must be numbers, the same number of them in every row") from None
