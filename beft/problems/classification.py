"""Sequence classification: a head with one output a label, cross-entropy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from beft.encoding.examples import AnyRows, LabelledRows, Predictions
from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.problems.problem_type import ProblemType, as_array, labels_or_zeros


class Classification(ProblemType):
    """One sequence an example; predicts the probability of every label."""

    name = "classification"
    has_pairs = True

    @property
    def has_classes(self) -> bool:
        """Always."""
        return True

    def outputs(self, labels: int) -> int:
        """One a label."""
        return labels

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Each text, or pair of texts, cut to the maximal length."""
        encoded = encode(tokenizer, rows.texts, rows.pairs, max_length=max_length)
        return LabelledRows(encoded, labels_or_zeros(rows), source=rows)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """Cross-entropy.

        Raises:
            InputError: There is but one output.
        """
        if outputs.dim() != 2 or outputs.shape[1] < 2:
            raise InputError(f"classification needs outputs of two labels or more, not of shape {tuple(outputs.shape)}")
        return functional.cross_entropy(outputs, targets, reduction="none")

    def best_constant(self, targets: np.ndarray, labels: int) -> Tensor:
        """The logarithms of the labels' frequencies, one added to each count, with a mean of zero."""
        logits = np.log(np.bincount(targets, minlength=labels) + 1.0)
        return torch.from_numpy(logits - logits.mean())

    def pair_weights(self, targets: Tensor, train: np.ndarray) -> Tensor:
        """1 for two examples of one label."""
        return (targets[:, None] == targets).double()

    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """Probabilities, [rows, labels]."""
        return as_array(torch.softmax(outputs, -1))
