"""Labelled examples: each is one sequence of tokens, or several (its candidates), with one target."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beft.encoding.iob2 import NO_WORD, tagged_spans
from beft.encoding.tokenization import Encoded
from beft.metrics.spans import Span
from beft.metrics.truth import Truth
from beft.sites.batch_axis import Batch

Predictions = NDArray[np.float64] | list[str] | list[list[Span]]
"""Probabilities or scores [examples, labels or choices], values [examples], texts, or the spans of each example: as the
metrics take them."""


class AnyRows(Protocol):
    """Rows of text, as ``beft.datasets.Rows`` holds them; what a problem type does not need may be missing."""

    @property
    def texts(self) -> Sequence[str]:
        """The text of each row."""

    @property
    def pairs(self) -> Sequence[str] | None:
        """The second text of each row, or None."""

    @property
    def labels(self) -> Sequence[Any]:
        """The label, numbers of labels, value or number of the right choice of each row; empty where there is none."""

    @property
    def choices(self) -> Sequence[Sequence[str]] | None:
        """The choices of each row, or None."""

    @property
    def answers(self) -> Sequence[Sequence[str]] | None:
        """The right answers of each row, or None."""

    @property
    def groups(self) -> Sequence[str] | None:
        """What each row belongs to, or None."""

    @property
    def spans(self) -> Sequence[Sequence[Sequence[int]]] | None:
        """Start, end and number of the label of each span of each row, or None."""


@dataclass(frozen=True)
class LabelledRows:
    """Encoded examples and their targets.

    Attributes:
        encoded: The sequences, those of an example one after the other.
        labels: The target of each example: int64 numbers of labels or of the right sequence, or fp64 values; or where
            an example can have several labels, int64 [examples, labels] of 1 and 0; or where its words have tags, int64
            [examples, most words], the numbers of the tags, and ``NO_WORD`` behind the last word.
        sizes: How many sequences each example has, int64; None: one each.
        source: The rows that the examples were made of; None for examples made without text.
        prompts: For each example what an answer is generated from; None where none is.
        words: The characters of each word of each example, where words have tags; else None.
    """

    encoded: Encoded
    labels: np.ndarray
    sizes: np.ndarray | None = None
    source: AnyRows | None = None
    prompts: Encoded | None = None
    words: Sequence[Sequence[tuple[int, int]]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest sequence of each example, int64."""
        lengths = self.encoded.lengths
        return lengths if self.sizes is None else np.asarray(np.maximum.reduceat(lengths, self._starts))

    @cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of all sequences of each example, padding not counted, int64."""
        lengths = self.encoded.lengths
        return lengths if self.sizes is None else np.asarray(np.add.reduceat(lengths, self._starts))

    def take(self, examples: np.ndarray) -> "LabelledRows":
        """Some of the examples, in this order, without the rows that they were made of."""
        return LabelledRows(
            self.encoded.take(self.sequences(examples)),
            self.labels[examples],
            None if self.sizes is None else self.sizes[examples],
            prompts=None if self.prompts is None else self.prompts.take(examples),
            words=None if self.words is None else [self.words[example] for example in examples],
        )

    @cached_property
    def _starts(self) -> np.ndarray:
        assert self.sizes is not None
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    @property
    def truth(self) -> Truth:
        """What predictions are compared with: of the rows that the examples were made of, or the labels alone."""
        if self.words is not None:
            return self._true_spans(self.words)
        if self.labels.ndim == 2:
            return Truth(label_sets=self.labels, groups=None if self.source is None else self.source.groups)
        if self.source is None:
            return Truth(values=self.labels) if self.labels.dtype == np.float64 else Truth(labels=self.labels)
        labelled = len(self.source.labels) > 0
        values = labelled and self.labels.dtype == np.float64
        return Truth(
            labels=self.source.labels if labelled and not values else None,
            values=self.source.labels if values else None,
            answers=self.source.answers,
            groups=self.source.groups,
        )

    def _true_spans(self, words: Sequence[Sequence[tuple[int, int]]]) -> Truth:
        """Those of the rows, or where there are none what the tags say."""
        if self.source is not None and self.source.spans is not None:
            return Truth(spans=self.source.spans, groups=self.source.groups)
        tags = self.labels[self.labels != NO_WORD]
        return Truth(spans=tagged_spans(tags, np.ones(len(tags)), words))

    @property
    def output_sizes(self) -> Tensor:
        """How many outputs a model has for each example: one a sequence, or one a word; int64."""
        if self.words is None:
            return self.sizes_of(np.arange(len(self)))
        return torch.tensor([len(of_example) for of_example in self.words], dtype=torch.int64)

    def outputs_of(self, examples: np.ndarray) -> np.ndarray:
        """The numbers of the outputs of some examples, in the order of the examples."""
        if self.words is None:
            return self.sequences(examples)
        sizes = self.output_sizes.numpy()
        starts = np.cumsum(sizes) - sizes
        return np.concatenate([np.arange(starts[one], starts[one] + sizes[one]) for one in examples])

    def sizes_of(self, examples: np.ndarray) -> Tensor:
        """How many sequences each of some examples has, int64."""
        if self.sizes is None:
            return torch.ones(len(examples), dtype=torch.int64)
        return torch.from_numpy(self.sizes[examples])

    def sequences(self, examples: np.ndarray) -> np.ndarray:
        """The numbers of the sequences of some examples, in the order of the examples."""
        if self.sizes is None:
            return examples
        return np.concatenate([np.arange(start, start + size) for start, size in self._spans(examples)])

    def _spans(self, examples: np.ndarray) -> list[tuple[int, int]]:
        assert self.sizes is not None
        return list(zip(self._starts[examples].tolist(), self.sizes[examples].tolist(), strict=True))

    def batch(self, examples: np.ndarray, device: torch.device | str = "cpu") -> Batch:
        """The padded tensors of all sequences of some examples."""
        return self.encoded.batch(self.sequences(examples), device)

    def targets(self, examples: np.ndarray) -> Tensor:
        """The targets of some examples."""
        return torch.from_numpy(self.labels[examples])


def pad_scores(scores: Tensor, sizes: Tensor) -> Tensor:
    """One score a sequence as one row an example, [examples, most sequences]; minus infinity where there is none."""
    sizes = sizes.to(scores.device)
    most = int(sizes.max())
    there = torch.arange(most, device=scores.device) < sizes[:, None]
    return scores.new_full(there.shape, -torch.inf).masked_scatter(there, scores)
