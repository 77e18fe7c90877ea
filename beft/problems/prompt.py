"""The prompt of a dataset: from a row to the text that a language model continues, and to the answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from beft.errors import InputError

_PLACE = re.compile(r"\{(text|text_pair)\}")
_ANSWER = re.compile(r"\{(?:choice|answer)\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt template.

    Attributes:
        template: With ``{text}`` and ``{text_pair}``; it ends where the answer begins.
        answers: For classification: the answer that stands for each label, by its name.
        answer: How a choice, or a free answer, is written behind the template: ``{choice}`` or ``{answer}`` is its
            place.

    Raises:
        InputError: The template has no ``{text}``, or ``answer`` no place.
    """

    template: str
    answers: Mapping[str, str] = field(default_factory=dict)
    answer: str = " {choice}"

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise InputError(f"the prompt {self.template!r} has no place for the text: write {{text}} there")
        if not _ANSWER.search(self.answer):
            raise InputError(f"the prompt's answer {self.answer!r} has no place: write {{choice}} or {{answer}} there")

    def text(self, text: str, pair: str | None = None) -> str:
        """The text of a row that the model continues.

        Raises:
            InputError: The template has a place for a second text, and there is none.
        """
        if pair is None and "{text_pair}" in self.template:
            raise InputError("the prompt has a place for a second text, but the rows have none")
        # In one pass: what a text holds is never taken for a place.
        return _PLACE.sub(lambda found: text if found[1] == "text" else str(pair), self.template)

    def written(self, choice: str) -> str:
        """A choice or free answer as it stands behind the template."""
        return _ANSWER.sub(lambda _: choice, self.answer)

    def of_labels(self, labels: tuple[str, ...]) -> list[str]:
        """The answers of the labels, in their order.

        Raises:
            InputError: A label has none.
        """
        if missing := [label for label in labels if not self.answers.get(label)]:
            raise InputError(f"the prompt has no answer for the label {', '.join(missing)}; add it to prompt.answers")
        return [self.answers[label] for label in labels]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"template": self.template, "answers": dict(self.answers), "answer": self.answer}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a prompt, as ``data.json`` and adapters hold it.

        Raises:
            InputError: Something in it is missing or wrong.
        """
        answers, answer = value.get("answers") or {}, value.get("answer") or " {choice}"
        texts = [value.get("template"), answer, *answers.keys(), *answers.values()]
        if not all(isinstance(text, str) for text in texts):
            raise InputError("a prompt needs a template, and answers that are texts")
        return cls(str(value["template"]), dict(answers), answer)
