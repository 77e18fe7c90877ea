"""How a dataset is put to a language model: a template, and the words that answer it."""

import re

from pydantic import Field

from beft.datasets.shape import Columns, ShapeName
from beft.training_settings import Section

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_OF_ANSWER: dict[ShapeName, str] = {"multiple_choice": "{choice}", "generation": "{answer}"}


class Prompt(Section):
    """A prompt in the form of PromptSource (arXiv 2202.01279) and of the tasks of MeZO (arXiv 2305.17333).

    Attributes:
        template: What stands before the answer, with ``{text}`` and ``{text_pair}`` in the places of the row's texts.
        answers: Of classification: the answer that each label stands for, with the white space before it.
        answer: Of multiple choice and generation: the answer, with ``{choice}`` or ``{answer}`` in the place of the
            row's own; by default that alone, behind a space.
    """

    template: str = Field(min_length=1)
    answers: dict[str, str] = Field({})
    answer: str | None = None

    def completed(self, shape: ShapeName) -> "Prompt":
        """The prompt with the answer's form written out."""
        if shape in _OF_ANSWER and self.answer is None:
            return self.model_copy(update={"answer": f" {_OF_ANSWER[shape]}"})
        return self

    def misfit(self, shape: ShapeName, columns: Columns, labels: tuple[str, ...]) -> str | None:
        """What is wrong with the prompt for a dataset; None where nothing is."""
        known = ["text"] if columns.text_pair is None else ["text", "text_pair"]
        used = _PLACEHOLDER.findall(self.template)
        foreign = [name for name in used if name not in known]
        if foreign:
            return f"template: {{{foreign[0]}}} is none of its places: {', '.join(f'{{{name}}}' for name in known)}"
        absent = [name for name in known if name not in used]
        if absent:
            return f"template: {{{absent[0]}}} does not stand in it"
        if self.template.endswith(" "):
            return "template: it ends with a space; begin the answers with it, for tokens begin with their space"
        if shape not in ("classification", *_OF_ANSWER):
            return f"{shape} is not put to a language model"
        if shape == "classification":
            return self._misfit_of_answers(labels)
        if self.answers:
            return f"answers: the answers of {shape} are the row's own; say their form in 'answer'"
        place = _OF_ANSWER[shape]
        if self.answer is not None and _PLACEHOLDER.findall(self.answer) != [place.strip("{}")]:
            return f"answer: it must hold {place} once"
        return None

    def _misfit_of_answers(self, labels: tuple[str, ...]) -> str | None:
        if self.answer is not None:
            return "answer: classification answers with the words of 'answers'"
        if set(self.answers) != set(labels):
            return f"answers: they must name exactly the labels {', '.join(labels)}"
        words = [word.strip() for word in self.answers.values()]
        if not all(words) or len(set(words)) < len(words):
            return "answers: every label needs a word of its own"
        return None


def fill(template: str, **texts: str) -> str:
    """Put texts into the places of a template, all at once: braces in a text stay as they are.

    Raises:
        KeyError: A place has no text.
    """
    return _PLACEHOLDER.sub(lambda place: texts[place[1]], template)
