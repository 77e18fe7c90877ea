"""Texts that are asked about: checked before anything is computed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beft.adapters.checks import Answering, check_inputs
from beft.datasets.given_rows import given_list
from beft.errors import InputError, RowError
from beft.settings import NO_UNICODE


@dataclass(frozen=True)
class Questions:
    """Texts that are asked about, as a problem type takes rows."""

    texts: Sequence[str]
    pairs: Sequence[str] | None = None
    choices: Sequence[Sequence[str]] | None = None
    labels: Sequence[Any] = ()
    answers: None = None
    groups: None = None
    spans: None = None


def check_questions(
    adapter: Answering,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    choices: Sequence[Sequence[str]] | None = None,
) -> Questions:
    """The questions, when an adapter can answer them.

    Args:
        pairs: The second text of each, for an adapter that was trained on two; such an adapter takes nothing else.
        choices: The choices of each, for an adapter that chooses among a row's own.

    Raises:
        InputError: Something among the texts is no text, or the pairs or choices are not as many, or are missing,
            or the adapter does not take them.
    """
    texts = _checked_texts(texts, "text")
    pairs = None if pairs is None else _checked_texts(pairs, "second text")
    choices = None if choices is None else given_list(choices, "choices")
    for what, others in (("second texts", pairs), ("lists of choices", choices)):
        if others is not None and len(others) != len(texts):
            raise InputError(f"there are {len(texts)} texts but {len(others)} {what}")
    if choices is not None:
        choices = [_checked_texts(of_row, "choice", row) for row, of_row in enumerate(choices)]
    check_inputs(adapter, pairs=pairs is not None, choices=choices is not None)
    return Questions(texts, pairs, choices)


def _checked_texts(given: Iterable[str], what: str, of_row: int | None = None) -> list[str]:
    if isinstance(given, str):
        raise InputError(f"predict takes a list of texts; got one {what}: put it into a list")
    texts = given_list(given, f"{what}s")
    for at, text in enumerate(texts):
        row = at if of_row is None else of_row
        if not isinstance(text, str):
            raise RowError(row, f"has {text!r} for its {what}; it must be a string")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError(row, f"has, at character {error.start} of its {what}, {NO_UNICODE}") from None
    return texts
