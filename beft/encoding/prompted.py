"""Prompts and answers as tokens, with a boundary between them that does not depend on the answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from beft.encoding.tokenization import TOKENIZING, Encoded, token_limit
from beft.errors import InputError, RowError


def encode_prompted(
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    max_length: int,
    ended: bool = False,
) -> Encoded:
    """One sequence an answer: the tokens of its prompt, then those of the answer.

    A sequence that is too long loses the beginning of its prompt, never a token of the answer. Where the tokenizer
    starts each text with a token of its own, so does each sequence.

    Args:
        answers: Of each prompt, as they are to stand behind it.
        max_length: Tokens of a sequence at most.
        ended: Whether the tokenizer's end-of-text token closes each answer, so that generating learns to stop.

    Raises:
        InputError: There is no prompt, an answer has no token, or there is no room for one.
    """
    if not prompts:
        raise InputError("there is no text to encode")
    start, limit = _start(tokenizer), token_limit(tokenizer, max_length)
    end = [tokenizer.eos_token_id] if ended and tokenizer.eos_token_id is not None else []
    of_prompts = _plain_tokens(tokenizer, prompts)
    flat = [prompt + answer for prompt, of_prompt in zip(prompts, answers, strict=True) for answer in of_prompt]
    alone = iter(_plain_tokens(tokenizer, [answer for of_prompt in answers for answer in of_prompt]))
    whole = iter(_plain_tokens(tokenizer, flat))
    ids: list[list[int]] = []
    lengths: list[int] = []
    truncated = 0
    for row, (prompt, of_prompt) in enumerate(zip(of_prompts, answers, strict=True)):
        of_row = []
        for _ in of_prompt:
            together, by_itself = next(whole), next(alone)
            # Some tokenizers write a word's first token in another way where a text begins: so the answer is taken
            # from behind the prompt wherever the prompt's own tokens stay what they are.
            follows = together[: len(prompt)] == prompt and len(together) > len(prompt)
            of_row.append((together[len(prompt) :] if follows else by_itself) + end)
        kept = limit - len(start) - max(map(len, of_row))
        if min(map(len, of_row)) == len(end):
            raise RowError(row, "has an answer without a token")
        if kept < 1 or not (start or prompt):
            raise RowError(
                row,
                f"has an answer of {max(map(len, of_row))} tokens, which leaves no room for its prompt in {limit}; "
                "raise max_length",
            )
        truncated += len(prompt) > kept
        ids += [[*start, *prompt[-kept:], *answer] for answer in of_row]
        lengths += [len(answer) for answer in of_row]
    of_rows = np.array([len(row) for row in ids], dtype=np.int64)
    return Encoded(ids, None, of_rows, truncated, tokenizer.pad_token_id, answers=np.array(lengths, dtype=np.int64))


def encode_prompts(tokenizer: Any, prompts: Sequence[str], *, max_length: int, room: int) -> Encoded:
    """The prompts alone, to be continued: padded on the left, cut at the beginning.

    Args:
        max_length: Tokens of a sequence at most.
        room: Of these, how many are left for what is generated.

    Raises:
        InputError: There is no prompt, one has no token, or the room leaves none for a prompt.
    """
    if not prompts:
        raise InputError("there is no text to encode")
    start, limit = _start(tokenizer), token_limit(tokenizer, max_length)
    plain = _plain_tokens(tokenizer, prompts)
    kept = limit - room - len(start)
    if kept < 1:
        raise InputError(
            f"{room} new tokens leave no room for a prompt in {limit}; raise max_length or lower max_new_tokens"
        )
    ids = [[*start, *tokens[-kept:]] for tokens in plain]
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    if not lengths.all():
        raise RowError(int(np.flatnonzero(lengths == 0)[0]), "has no token")
    return Encoded(ids, None, lengths, sum(len(tokens) > kept for tokens in plain), tokenizer.pad_token_id, True)


def _plain_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    with TOKENIZING:
        found = tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
    tokens: list[list[int]] = found["input_ids"]
    return tokens


def _start(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before each text; none where it has no such token."""
    first = tokenizer.bos_token_id
    with TOKENIZING:
        with_special = tokenizer("a", verbose=False)["input_ids"]
        plain = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    starts = first is not None and with_special[:1] == [first] and plain[:1] != [first]
    return [first] if starts else []
