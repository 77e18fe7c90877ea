"""Multiple choice: one sequence a choice, each with one score; cross-entropy over the choices of an example."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from beft.encoding.examples import AnyRows, LabelledRows, Predictions, pad_scores
from beft.encoding.tokenization import encode
from beft.problems.problem_type import ProblemType, as_array, choices_of, labels_or_zeros


class MultipleChoice(ProblemType):
    """A head with one output reads the text with each choice behind it; predicts the probability of every choice.

    What ``AutoModelForMultipleChoice`` computes, with a ``…ForSequenceClassification`` model of one label. A second
    text stands before the choice, as in the field's code for SWAG.
    """

    name = "multiple_choice"

    def outputs(self, labels: int) -> int:
        """One: the score of a choice."""
        return 1

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Each text paired with each of its choices, cut to the maximal length."""
        choices = choices_of(rows, self.name)
        sizes = np.array([len(of_row) for of_row in choices], dtype=np.int64)
        texts = [text for text, of_row in zip(rows.texts, choices, strict=True) for _ in of_row]
        pairs = rows.pairs or [""] * len(choices)
        second = [f"{pair} {choice}".strip() for pair, of_row in zip(pairs, choices, strict=True) for choice in of_row]
        encoded = encode(tokenizer, texts, second, max_length=max_length, sizes=sizes)
        return LabelledRows(encoded, labels_or_zeros(rows), sizes, source=rows)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """Cross-entropy over the choices of each example."""
        return functional.cross_entropy(pad_scores(outputs[:, 0], sizes), targets, reduction="none")

    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """Probabilities, [examples, most choices]; 0 for a choice that an example does not have."""
        return as_array(torch.softmax(pad_scores(outputs[:, 0], sizes), -1))
