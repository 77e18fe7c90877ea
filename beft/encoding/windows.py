"""Texts to tokens for tags on words: long texts in overlapping windows, each word read where it has most context."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from beft.encoding.tokenization import TOKENIZING, Encoded, token_limit
from beft.errors import InputError, RowError

Words = Sequence[Sequence[tuple[int, int]]]
_OVERLAP = 4
"""Neighbouring windows share one part in so many of their tokens."""


class _Window(NamedTuple):
    """The tokens of a window that stand for characters.

    Attributes:
        places: Where they stand in the window.
        starts: The first character of each.
        ends: The one behind its last.
    """

    places: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def encode_words(tokenizer: Any, texts: Sequence[str], words: Words, *, max_length: int) -> tuple[Encoded, np.ndarray]:
    """Tokenize texts whose words are to be read one by one, each at the first of its tokens.

    A text of more than ``max_length`` tokens becomes several windows, of which neighbours share a quarter; nothing is
    cut. A word is read in the window in which the nearer end is farthest from it. The windows of a text stand one after
    the other, and so do the words that are read in them. A word without a token is read at the one before it.

    Args:
        words: The characters of each word of each text, in order.

    Returns:
        The windows, with the positions of the tokens that are read, and how many each text has.

    Raises:
        InputError: There is no text, one has no token, ``max_length`` leaves no room, or the tokenizer does not say
            which characters a token stands for.
    """
    if not len(texts):
        raise InputError("there is no text to encode")
    if not tokenizer.is_fast:
        raise InputError(
            f"token classification needs to know which characters a token stands for, and {type(tokenizer).__name__} "
            "does not say it: use a base with a fast tokenizer (tokenizer.json)"
        )
    limit = token_limit(tokenizer, max_length)
    room = limit - tokenizer.num_special_tokens_to_add()
    if room < _OVERLAP:
        raise InputError(f"max_length {limit} leaves {room} tokens for the text: token classification needs 4 or more")
    with TOKENIZING:
        found = tokenizer(
            list(texts),
            truncation=True,
            max_length=limit,
            stride=room // _OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
        )
    row_of = np.asarray(found["overflow_to_sample_mapping"])
    if tokenizer.truncation_side == "left":  # it then gives the last window of a text first
        order = np.lexsort((-np.arange(len(row_of)), row_of))
        found = {name: [values[at] for at in order] for name, values in found.items()}
    sizes = np.bincount(row_of, minlength=len(texts))
    lengths = np.array([len(ids) for ids in found["input_ids"]], dtype=np.int64)
    if not lengths.all():
        raise RowError(int(row_of[np.flatnonzero(lengths == 0)[0]]), "has no token")
    windows = [
        _window(np.asarray(offsets, dtype=np.int64).reshape(-1, 2), np.asarray(special, dtype=bool))
        for offsets, special in zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
    ]
    positions: list[list[int]] = []
    first = 0
    for of_text, count in zip(words, sizes.tolist(), strict=True):
        positions += _read_positions(of_text, windows[first : first + count])
        first += count
    encoded = Encoded(
        found["input_ids"],
        found.get("token_type_ids"),
        lengths,
        0,
        tokenizer.pad_token_id,
        cut=np.zeros(len(lengths), dtype=bool),
        positions=positions,
    )
    return encoded, sizes


def _window(offsets: np.ndarray, special: np.ndarray) -> _Window:
    places = np.flatnonzero(~special & (offsets[:, 1] > offsets[:, 0]))
    return _Window(places, offsets[places, 0], offsets[places, 1])


def _read_positions(words: Sequence[tuple[int, int]], windows: Sequence[_Window]) -> list[list[int]]:
    """For each window of a text the positions of the tokens that are read there, in the order of the words.

    Each window looks at the words of its own stretch alone: time and memory are linear in the length of a text.
    """
    if not words:
        return [[] for _ in windows]
    starts, ends = np.array(words, dtype=np.int64).T
    most, best = np.full(len(words), -1), np.zeros(len(words), dtype=np.int64)
    for number, window in enumerate(windows):
        if not len(window.places):
            continue
        first = np.searchsorted(ends, window.starts[0], side="right")
        stop = np.searchsorted(starts, window.ends[-1], side="left")
        _, contexts = _tokens(window, starts[first:stop], ends[first:stop])
        better = first + np.flatnonzero(contexts > most[first:stop])
        most[better], best[better] = contexts[better - first], number
    # A window holds the words of one stretch of the text, so those read in it are neighbours.
    best = np.maximum.accumulate(best)
    bounds = np.searchsorted(best, np.arange(len(windows) + 1)).tolist()
    found: list[list[int]] = []
    for window, first, stop in zip(windows, bounds[:-1], bounds[1:], strict=True):
        if not len(window.places):
            found.append([0] * (stop - first))
            continue
        tokens, _ = _tokens(window, starts[first:stop], ends[first:stop])
        found.append(window.places[tokens].tolist())
    return found


def _tokens(window: _Window, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For words the tokens in a window that they are read at, and how far each is from the nearer end of the window.

    A word without a token has the one before it; where the window does not hold that either, it is -1 from the end.
    """
    count = len(window.places)
    token = np.searchsorted(window.ends, starts, side="right")
    inside = np.minimum(token, count - 1)
    there = (token < count) & (window.starts[inside] < ends)
    held = there | ((token > 0) & (token < count))
    tokens = np.where(there, inside, np.maximum(token - 1, 0))
    return tokens, np.where(held, np.minimum(inside, count - 1 - inside), -1)
