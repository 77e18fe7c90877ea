"""Token classification: tags on the words of a text (IOB2), which say its labelled spans (entities)."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from beft.datasets.words import WordRule, words_of
from beft.encoding.examples import AnyRows, LabelledRows, Predictions
from beft.encoding.iob2 import NO_WORD, tag_names, tagged_spans, tags_of
from beft.encoding.windows import encode_words
from beft.errors import InputError, RowError
from beft.metrics.spans import Span
from beft.problems.problem_type import ProblemType, as_array


class TokenClassification(ProblemType):
    """One text an example, in one window of tokens or several; predicts the tag of every word, and spans from these.

    A word is read at its first token, as in Devlin et al., "BERT" (2019), section 5.3; the others have no loss. The
    outputs of a model are those of the words of all texts, one after the other, [words, tags].

    Args:
        labels: How many labels spans can have.
        words: What divides a text into words.
    """

    name = "token_classification"
    reads_words = True

    def __init__(self, labels: int, words: WordRule = "punctuation") -> None:
        self.labels = labels
        self.words = words

    def outputs(self, labels: int) -> int:
        """O, and B- and I- of each label."""
        return 2 * labels + 1

    def output_names(self, labels: Sequence[str]) -> list[str]:
        """The names of the tags."""
        return tag_names(labels)

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Each text in windows of the maximal length; targets are the tags of its words.

        Raises:
            InputError: The rows are pairs of texts, or a label is none of those that there are.
        """
        if rows.pairs is not None:
            raise InputError("token classification reads single texts, and these rows are pairs")
        words = [words_of(text, self.words) for text in rows.texts]
        encoded, sizes = encode_words(tokenizer, rows.texts, words, max_length=max_length)
        tags = np.full((len(words), max(1, *map(len, words), 0)), NO_WORD, dtype=np.int64)
        for row, of_text in enumerate(words):
            spans = [] if rows.spans is None else rows.spans[row]
            if outside := [number for *_, number in spans if not 0 <= number < self.labels]:
                raise RowError(row, f"has a span with the label {outside[0]}, but there are {self.labels} (from 0)")
            tags[row, : len(of_text)] = tags_of(spans, of_text)
        return LabelledRows(encoded, tags, sizes, source=rows, words=words)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """The sum over an example's words of the cross-entropy of their tags.

        Args:
            outputs: [words of all examples, tags].
            targets: [examples, most words]; ``NO_WORD`` behind the last one.
            sizes: Not needed.
        """
        there = targets != NO_WORD
        each = functional.cross_entropy(outputs, targets[there], reduction="none")
        return each.new_zeros(targets.shape).masked_scatter(there, each).sum(-1)

    def loss_units(self, targets: np.ndarray) -> np.ndarray:
        """How many words each example has."""
        return np.asarray((targets != NO_WORD).sum(-1), dtype=np.float64)

    def mean_loss(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> float:
        """The mean over all words."""
        words = int((targets != NO_WORD).sum())
        return float(self.losses(outputs, targets, sizes).sum()) / max(1, words)

    def best_constant(self, targets: np.ndarray, labels: int) -> Tensor:
        """The logarithms of the tags' frequencies, one added to each count, with a mean of zero."""
        counts = np.bincount(targets[targets != NO_WORD], minlength=self.outputs(labels))
        logits = np.log(counts + 1.0)
        return torch.from_numpy(logits - logits.mean())

    def predictions(self, outputs: Tensor, sizes: Tensor) -> Predictions:
        """The spans of each example, counted in words.

        Args:
            outputs: [words of all examples, tags].
            sizes: How many words each example has.
        """
        return self.spans(outputs, [[(at, at + 1) for at in range(count)] for count in sizes.tolist()])

    def predictions_of(self, outputs: Tensor, rows: LabelledRows) -> Predictions:
        """The spans of each example, by their characters; the score is the mean probability of the words' tags."""
        assert rows.words is not None  # examples() makes them
        return self.spans(outputs, rows.words)

    @staticmethod
    def spans(outputs: Tensor, words: Sequence[Sequence[tuple[int, int]]]) -> list[list[Span]]:
        """The spans of each text, from the outputs of all words [words, tags] and the characters of each word."""
        probabilities, tags = torch.softmax(outputs.double(), -1).max(-1)
        return tagged_spans(tags.cpu().numpy(), as_array(probabilities), words)

    def to_json(self) -> dict[str, Any]:
        """The name, the number of labels, and what divides words."""
        return {"name": self.name, "labels": self.labels, "words": self.words}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: The number of labels is missing, or what divides words is not known.
        """
        labels, words = value.get("labels"), str(value.get("words"))
        if type(labels) is not int or labels < 1:
            raise InputError(f"the problem type {cls.name!r} needs a number of labels")
        rules: dict[str, WordRule] = {rule: rule for rule in get_args(WordRule)}
        if words not in rules:
            raise InputError(f"the problem type {cls.name!r} needs what divides words: {' or '.join(rules)}")
        return cls(labels, rules[words])
