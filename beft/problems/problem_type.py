"""What a problem type knows: how rows become examples, what their loss is, and what is predicted from the outputs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from beft.encoding.examples import AnyRows, LabelledRows, Predictions
from beft.errors import InputError, RowError

BETWEEN_SPANS = " | "
"""What stands between the spans of one answer where they are written in a line; in data each has its own line."""


class ProblemType(ABC):
    """A problem type. An example is one sequence of tokens or several; the model gives outputs for each sequence.

    Attributes:
        name: How settings and adapters call it.
        has_head: Whether the outputs are those of a head; else they are log-likelihoods of a language model.
        has_thresholds: Whether dev rows choose thresholds for its predictions.
        has_pairs: Whether two examples belong together more or less, which contrastive learning needs.
        reads_words: Whether its outputs are those of the words of a text, rather than of a sequence.
    """

    name: ClassVar[str]
    has_head: ClassVar[bool] = True
    has_thresholds: ClassVar[bool] = False
    has_pairs: ClassVar[bool] = False
    reads_words: ClassVar[bool] = False

    @property
    def new_tokens(self) -> int:
        """Tokens of a generated answer at most; 0 where it predicts from the outputs."""
        return 0

    @property
    def generates(self) -> bool:
        """Whether it predicts by generating text, rather than from the outputs."""
        return self.new_tokens > 0

    @property
    def has_classes(self) -> bool:
        """Whether targets are numbers of classes that all examples share."""
        return False

    @abstractmethod
    def outputs(self, labels: int) -> int:
        """How many outputs the model has for a sequence, with so many labels."""

    def output_names(self, labels: Sequence[str]) -> list[str]:
        """What each output is called, where it stands for something that labels name."""
        return list(labels)

    @abstractmethod
    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Encode rows; those without labels get targets of 0.

        Args:
            tokenizer: Of the base.
            max_length: Tokens that a sequence is cut to.
            training: Whether they are trained on: what only predictions need is then left out.

        Raises:
            InputError: The rows lack something that the problem type needs.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """The loss of each example, [examples]: the negative logarithm of a likelihood, without its constants.

        Args:
            outputs: [sequences, outputs], fp32 or wider.
            targets: [examples], as in ``LabelledRows.labels``, on the device of the outputs.
            sizes: How many sequences each example has.
        """

    @abstractmethod
    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """What is predicted for every example.

        Args:
            outputs: [sequences, outputs].
            sizes: How many sequences each example has.
        """

    def predictions_of(self, outputs: Tensor, rows: LabelledRows) -> Predictions:
        """What is predicted for every example of some rows, in the form of the metrics.

        Args:
            outputs: Of all their sequences, [sequences, outputs].
        """
        return self.predictions(outputs, rows.output_sizes)

    def loss_units(self, targets: np.ndarray) -> np.ndarray:
        """What each example's loss is a sum over, and a mean of losses divides by, fp64, [examples]: 1 each.

        Args:
            targets: As in ``LabelledRows.labels``.
        """
        return np.ones(len(targets))

    def best_constant(self, targets: np.ndarray, labels: int) -> Tensor | None:
        """The outputs that fit the targets best where nothing else is known, [outputs]; None: no output is such.

        Args:
            targets: Of every example, as in ``LabelledRows.labels``.
            labels: How many there are.
        """
        return None

    def with_thresholds_on(self, outputs: Tensor, targets: np.ndarray) -> "ProblemType":
        """The same with the thresholds that are best on dev rows; itself where it has none.

        Args:
            outputs: Of every sequence [sequences, outputs].
            targets: Of every example, as in ``LabelledRows.labels``.
        """
        return self

    def target_scale(self, targets: np.ndarray) -> float:
        """What targets are divided by while they are trained on; 1 where they are no values.

        Args:
            targets: Of every example, as in ``LabelledRows.labels``.
        """
        return 1.0

    def pair_weights(self, targets: Tensor, train: np.ndarray) -> Tensor:
        """How much each two examples of a batch belong together, [examples, examples], 0 to 1; where ``has_pairs``.

        Args:
            targets: [examples], as in ``LabelledRows.labels``.
            train: The targets of all examples that are trained on.
        """
        raise NotImplementedError

    def mean_loss(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> float:
        """The mean of the examples' losses."""
        return float(self.losses(outputs, targets, sizes).mean())

    def to_json(self) -> dict[str, Any]:
        """Its name, and what else predicting needs; ``beft.problems.read_problem_type`` reads it."""
        return {"name": self.name}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: Something in it is wrong.
        """
        return cls()


def labels_or_zeros(rows: AnyRows, dtype: type[np.int64] | type[np.float64] = np.int64) -> np.ndarray:
    """The rows' labels; zeros for rows without labels."""
    return np.array(rows.labels, dtype=dtype) if len(rows.labels) else np.zeros(len(rows.texts), dtype=dtype)


def choices_of(rows: AnyRows, shape: str) -> list[list[str]]:
    """The choices of every row.

    Raises:
        InputError: There are none, or a row has none, or its label is none of them.
    """
    if rows.choices is None:
        raise InputError(f"the problem type {shape!r} needs the choices of each row, and these rows have none")
    for row, choices in enumerate(rows.choices):
        if not choices:
            raise RowError(row, "has no choice")
        if len(rows.labels) and not 0 <= rows.labels[row] < len(choices):
            raise RowError(row, f"has the label {rows.labels[row]}, but {len(choices)} choices (from 0)")
    return [list(choices) for choices in rows.choices]


def as_array(tensor: Tensor) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A tensor as an fp64 array."""
    array: np.ndarray[Any, np.dtype[np.float64]] = tensor.detach().to("cpu", torch.float64).numpy()
    return array
