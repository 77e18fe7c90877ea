"""The language model's own loss on the right answer; predicts by ranking candidates, or by generating."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor

from beft.encoding.examples import AnyRows, LabelledRows, pad_scores
from beft.encoding.prompted import encode_prompted, encode_prompts
from beft.encoding.tokenization import Encoded
from beft.errors import InputError, RowError
from beft.problems.candidates import Candidates
from beft.problems.problem_type import BETWEEN_SPANS, labels_or_zeros
from beft.problems.prompt import Prompt

NEW_TOKENS = 32
"""Tokens of a generated answer at most, where nothing else is said."""


class LanguageModeling(Candidates):
    """Trained with the mean negative log-likelihood of the right answer's tokens.

    Args:
        prompt: The dataset's.
        labels: Names of the classes, whose answers are the candidates.
        free: Whether rows have neither labels nor choices: an answer is generated, and the first of the right ones is
            what is trained.
        max_new_tokens: Tokens of a generated answer at most.
    """

    name = "language_model"

    def __init__(
        self, prompt: Prompt, labels: Sequence[str] = (), *, free: bool = False, max_new_tokens: int = NEW_TOKENS
    ) -> None:
        super().__init__(prompt, labels)
        if free and labels:
            raise InputError("an answer is either generated or one of the labels' own; there are labels")
        self.free = free
        self.max_new_tokens = max_new_tokens

    @property
    def new_tokens(self) -> int:
        """Tokens of a generated answer at most; 0 where candidates are ranked."""
        return self.max_new_tokens if self.free else 0

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """The prompt of each row with its right answer; where candidates are ranked, with all of them."""
        prompts = self.prompts(rows)
        if self.free:
            answers = [[right] for right in self.right_answers(rows)]
            encoded = encode_prompted(tokenizer, prompts, answers, max_length=max_length, ended=True)
            to_continue = None if training else self.to_continue(tokenizer, rows, max_length)
            return LabelledRows(encoded, np.zeros(len(prompts), np.int64), source=rows, prompts=to_continue)
        if not training:
            return super().examples(tokenizer, rows, max_length)
        candidates = self.candidates(rows)
        right = [[of_row[label]] for of_row, label in zip(candidates, labels_or_zeros(rows), strict=True)]
        encoded = encode_prompted(tokenizer, prompts, right, max_length=max_length)
        return LabelledRows(encoded, np.zeros(len(right), np.int64), source=rows)

    def right_answers(self, rows: AnyRows) -> list[str]:
        """The right answer of each row, as it stands behind the prompt; of several, the first."""
        if self.free:
            return [self.prompt.written(right) for right in _first_answers(rows)]
        return super().right_answers(rows)

    def to_continue(self, tokenizer: Any, rows: AnyRows, max_length: int) -> Encoded:
        """The prompts that answers are generated from, with room for these.

        Raises:
            InputError: The room is as long as the whole sequence.
        """
        return encode_prompts(tokenizer, self.prompts(rows), max_length=max_length, room=self.max_new_tokens)

    def losses(self, outputs: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        """The mean negative log-likelihood of the right answer's tokens."""
        return -pad_scores(outputs[:, 0], sizes).gather(1, targets[:, None])[:, 0]

    def to_json(self) -> dict[str, Any]:
        """The name, the prompt, the labels, and how an answer is generated."""
        return {**super().to_json(), "free": self.free, "max_new_tokens": self.max_new_tokens}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: There is no prompt, or something in it is wrong.
        """
        plain = Candidates.from_json(value)
        free, most = value.get("free", False), value.get("max_new_tokens", NEW_TOKENS)
        if not isinstance(free, bool) or type(most) is not int or most < 1:
            raise InputError(f"the problem type {cls.name!r}: free must be true or false, max_new_tokens at least 1")
        return cls(plain.prompt, plain.labels, free=free, max_new_tokens=most)


def _first_answers(rows: AnyRows) -> list[str]:
    """The first right answer of each row, its spans on one line."""
    if rows.answers is None:
        raise InputError("rows whose answers are generated need right answers to learn from, and these have none")
    if empty := [row for row, answers in enumerate(rows.answers) if not answers]:
        raise RowError(empty[0], "has no answer")
    return [answers[0].replace("\n", BETWEEN_SPANS) for answers in rows.answers]
