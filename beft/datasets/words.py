"""The words of a text: the units that token classification gives tags to, the same for every base."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

WordRule = Literal["spaces", "punctuation"]
"""What divides a text into words: spaces alone, or punctuation marks as well, each of which is then a word."""

_BETWEEN_SPACES = re.compile(r"\S+")
_SCRIPTS_WITHOUT_SPACES = ("CJK ", "HIRAGANA ", "KATAKANA ")
"""How the names of characters begin that are words of their own, as BERT takes Chinese ones."""


def words_of(text: str, rule: WordRule) -> list[tuple[int, int]]:
    """The first character of each word of a text and the one behind its last, in order.

    Example:
        >>> words_of("In St. Ives", "spaces")
        [(0, 2), (3, 6), (7, 11)]
        >>> words_of("In St. Ives", "punctuation")
        [(0, 2), (3, 5), (5, 6), (7, 11)]
    """
    pieces = [found.span() for found in _BETWEEN_SPACES.finditer(text)]
    if rule == "spaces":
        return pieces
    words = []
    for first, last in pieces:
        start = first
        for at in range(first, last):
            if _stands_alone(text[at]):
                words += [(start, at)] * (start < at) + [(at, at + 1)]
                start = at + 1
        words += [(start, last)] * (start < last)
    return words


@lru_cache(maxsize=4096)
def _stands_alone(character: str) -> bool:
    """Whether a character is a word of its own: punctuation, a symbol, or of a script without spaces."""
    category = unicodedata.category(character)
    ideograph = category == "Lo" and unicodedata.name(character, "").startswith(_SCRIPTS_WITHOUT_SPACES)
    return category[0] in "PS" or ideograph


def words_of_span(words: list[tuple[int, int]], start: int, end: int) -> tuple[int, int, bool]:
    """The words that a span of characters touches, and whether it begins and ends where they do.

    Returns:
        The number of the first word, that behind the last one, and whether the span is exactly these words.
    """
    touched = [number for number, (first, last) in enumerate(words) if first < end and last > start]
    if not touched:
        return 0, 0, False
    first, last = touched[0], touched[-1] + 1
    return first, last, words[first][0] == start and words[last - 1][1] == end
