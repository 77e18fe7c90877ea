"""Multi-label classification: a head with one output a label, each label a yes or no of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from beft.encoding.examples import AnyRows, LabelledRows, Predictions
from beft.encoding.tokenization import encode
from beft.errors import InputError, RowError
from beft.metrics.label_sets import SET_FROM, choose_thresholds
from beft.problems.problem_type import ProblemType, as_array


class MultiLabel(ProblemType):
    """One sequence an example; predicts a score for every label, which is given from 0.5 on.

    What ``problem_type="multi_label_classification"`` is in transformers, with a threshold for each label. The score of
    a label is its probability, moved on the scale of logits so that the label's threshold stands at 0.5; with all
    thresholds at 0.5, scores are probabilities.

    Args:
        labels: How many labels there are.
        thresholds: The probability from which each label is given; None: 0.5 for all.
    """

    name = "multi_label"
    has_thresholds = True
    has_pairs = True

    def __init__(self, labels: int, thresholds: Sequence[float] | None = None) -> None:
        found = (SET_FROM,) * labels if thresholds is None else tuple(map(float, thresholds))
        if len(found) != labels or not all(0 < one < 1 for one in found):
            raise InputError(f"the problem type {self.name!r} needs {labels} thresholds between 0 and 1, not {found}")
        self.labels = labels
        self.thresholds = found

    def outputs(self, labels: int) -> int:
        """One a label."""
        return labels

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Each text, or pair of texts, cut to the maximal length; targets are 1 or 0 for each label."""
        encoded = encode(tokenizer, rows.texts, rows.pairs, max_length=max_length)
        targets = np.zeros((len(rows.texts), self.labels), dtype=np.int64)
        for row, numbers in enumerate(rows.labels):
            if outside := [number for number in numbers if not 0 <= number < self.labels]:
                raise RowError(row, f"has the label {outside[0]}, but there are {self.labels} labels (from 0)")
            targets[row, list(numbers)] = 1
        return LabelledRows(encoded, targets, source=rows)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """The sum over the labels of the binary cross-entropy: the negative log-likelihood of the label set."""
        each = functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs), reduction="none")
        return each.sum(-1)

    def best_constant(self, targets: np.ndarray, labels: int) -> Tensor:
        """The logit of each label's frequency, one row with it and one without added."""
        with_label = targets.sum(0) + 1.0
        return torch.from_numpy(np.log(with_label) - np.log(len(targets) + 2.0 - with_label))

    def pair_weights(self, targets: Tensor, train: np.ndarray) -> Tensor:
        """The Jaccard index of two label sets; 1 for two empty ones."""
        sets = targets.double()
        both = sets @ sets.T
        either = sets.sum(1)[:, None] + sets.sum(1) - both
        return torch.where(either > 0, both / either.clamp(min=1), 1.0)

    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """Scores, [rows, labels]: a label is given from 0.5 on."""
        moved = torch.logit(torch.tensor(self.thresholds, dtype=torch.float64, device=outputs.device))
        return as_array(torch.sigmoid(outputs.double() - moved))

    def with_thresholds_on(self, outputs: Tensor, targets: np.ndarray) -> "MultiLabel":
        """The same with the threshold of each label that has the best F1 on dev rows."""
        probabilities = as_array(torch.sigmoid(outputs.double()))
        return MultiLabel(self.labels, choose_thresholds(probabilities, targets).tolist())

    def to_json(self) -> dict[str, Any]:
        """The name, the number of labels and their thresholds."""
        return {"name": self.name, "labels": self.labels, "thresholds": list(self.thresholds)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: The number of labels is missing, or the thresholds are not as many numbers between 0 and 1.
        """
        labels, thresholds = value.get("labels"), value.get("thresholds")
        if type(labels) is not int or labels < 1:
            raise InputError(f"the problem type {cls.name!r} needs a number of labels")
        numbers = isinstance(thresholds, list) and all(isinstance(one, int | float) for one in thresholds)
        if thresholds is not None and not numbers:
            raise InputError(f"the problem type {cls.name!r} needs thresholds that are numbers")
        return cls(labels, thresholds)
