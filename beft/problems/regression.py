"""Regression: a head with one output, squared error."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beft.encoding.examples import AnyRows, LabelledRows, Predictions
from beft.encoding.tokenization import encode
from beft.problems.problem_type import ProblemType, as_array, labels_or_zeros


class Regression(ProblemType):
    """One sequence an example; predicts a value."""

    name = "regression"
    has_pairs = True

    def outputs(self, labels: int) -> int:
        """One."""
        return 1

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Each text, or pair of texts, cut to the maximal length."""
        encoded = encode(tokenizer, rows.texts, rows.pairs, max_length=max_length)
        return LabelledRows(encoded, labels_or_zeros(rows, np.float64), source=rows)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """The squared error: twice the negative logarithm of a normal likelihood of variance 1."""
        return (outputs[:, 0] - targets.to(outputs)).square()

    def best_constant(self, targets: np.ndarray, labels: int) -> Tensor:
        """The mean value."""
        return torch.tensor([np.mean(targets)])

    def target_scale(self, targets: np.ndarray) -> float:
        """The power of 4 that is nearest to the standard deviation, as factors go."""
        spread = float(np.std(targets))
        return float(4.0 ** round(math.log(spread, 4))) if spread > 0 else 1.0

    def pair_weights(self, targets: Tensor, train: np.ndarray) -> Tensor:
        """A Gaussian kernel of the distance of two values; its width is Scott's (1992) for the values of train."""
        width = max(float(np.std(train)) * len(train) ** -0.2, 1e-12)
        return torch.exp(-((targets[:, None] - targets) / width).square() / 2)

    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """Values, [rows]."""
        return as_array(outputs[:, 0])
