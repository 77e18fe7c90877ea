"""Candidate answers ranked by a language model: no head, one sequence an answer, cross-entropy over the answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from beft.encoding.examples import AnyRows, LabelledRows
from beft.encoding.prompted import encode_prompted
from beft.errors import InputError
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import choices_of, labels_or_zeros
from beft.problems.prompt import Prompt


class Candidates(MultipleChoice):
    """Classification or multiple choice by the length-normalised log-likelihood of each candidate under the prompt.

    The scores are trained as the logits of a classification over the candidates; their softmax is what is predicted.

    Args:
        prompt: The dataset's.
        labels: Names of the classes, whose answers are the candidates; None: each row has choices of its own.
    """

    name = "candidates"
    has_head = False

    def __init__(self, prompt: Prompt, labels: Sequence[str] = ()) -> None:
        self.prompt = prompt
        self.labels = tuple(labels)
        self.of_labels = prompt.of_labels(self.labels)

    @property
    def has_classes(self) -> bool:
        """Where the candidates are the labels' own, the same for every row."""
        return bool(self.of_labels)

    def examples(self, tokenizer: Any, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """The prompt of each row with each of its candidates."""
        candidates = self.candidates(rows)
        encoded = encode_prompted(tokenizer, self.prompts(rows), candidates, max_length=max_length)
        sizes = np.array([len(of_row) for of_row in candidates], dtype=np.int64)
        return LabelledRows(encoded, labels_or_zeros(rows), sizes, source=rows)

    def prompts(self, rows: AnyRows) -> list[str]:
        """The text of each row that is continued."""
        pairs: Sequence[str | None] = rows.pairs or [None] * len(rows.texts)
        return [self.prompt.text(text, pair) for text, pair in zip(rows.texts, pairs, strict=True)]

    def candidates(self, rows: AnyRows) -> list[list[str]]:
        """The candidates of each row, as they stand behind the prompt."""
        if self.of_labels:
            return [self.of_labels] * len(rows.texts)
        return [[self.prompt.written(choice) for choice in of_row] for of_row in choices_of(rows, self.name)]

    def right_answers(self, rows: AnyRows) -> list[str]:
        """The right answer of each row, as it stands behind the prompt."""
        return [of_row[int(label)] for of_row, label in zip(self.candidates(rows), rows.labels, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The name, the prompt and the labels."""
        return {"name": self.name, "prompt": self.prompt.to_json(), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` gave.

        Raises:
            InputError: There is no prompt, or something in it is wrong.
        """
        prompt, labels = value.get("prompt"), value.get("labels", [])
        if not isinstance(prompt, Mapping) or not all(isinstance(label, str) for label in labels):
            raise InputError(f"the problem type {cls.name!r} needs a prompt, and labels that are texts")
        return cls(Prompt.from_json(prompt), labels)
