"""In-context learning: rows of train with their answers, put before a prompt ("Language Models are Few-Shot Learners",
arXiv 2005.14165, section 2)."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beft.encoding.examples import AnyRows, LabelledRows
from beft.encoding.prompted import encode_prompted, encode_prompts
from beft.encoding.tokenization import TOKENIZING, token_limit
from beft.errors import InputError
from beft.problems.candidates import Candidates

BETWEEN = "\n\n"
"""What stands between two demonstrations, and between the last one and the prompt."""


def draw_demonstrations(problem_type: Candidates, rows: AnyRows, count: int, seed: int) -> list[str]:
    """Rows with their answers as they stand in a prompt, in a drawn order; labels take turns where there are labels.

    Raises:
        InputError: Fewer than one is asked for.
    """
    if count < 1:
        raise InputError(f"in_context: {count} demonstrations are to be shown; name 1 or more")
    order = np.random.default_rng(seed).permutation(len(rows.texts))
    chosen = (_in_turn(order, np.array(rows.labels)) if problem_type.of_labels else order)[:count]
    prompts, answers = problem_type.prompts(rows), problem_type.right_answers(rows)
    return [prompts[row] + answers[row] for row in chosen]


def _in_turn(order: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """The rows in an order in which the labels take turns, as long as each of them has rows left."""
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(labels):
        places = np.flatnonzero(labels[order] == label)
        turn[places] = np.arange(len(places))
    return order[np.argsort(turn, kind="stable")]


def with_demonstrations(
    problem_type: Candidates, tokenizer: Any, rows: LabelledRows, shown: list[str], max_length: int
) -> tuple[LabelledRows, NDArray[np.int64]]:
    """Rows whose prompts stand behind demonstrations, and how many each row got.

    Args:
        rows: As the problem type encoded them; they are left as they are.
        shown: The demonstrations; the first ones are shown where not all fit.
        max_length: Tokens of a sequence at most, answer included.

    Raises:
        InputError: A row's own prompt leaves no room for an answer.
    """
    source = rows.source
    assert source is not None  # the shapes of language models keep it
    own = rows.encoded if rows.prompts is None else rows.prompts
    room = token_limit(tokenizer, max_length) - (problem_type.new_tokens if problem_type.generates else 0)
    longest = own.lengths if rows.prompts is not None else rows.lengths
    # A demonstration is counted with what stands behind it; one token more, for tokens may join where texts meet.
    sizes = np.cumsum([len(_tokens(tokenizer, text + BETWEEN)) + 1 for text in shown])
    counts = np.searchsorted(sizes, room - longest, side="right").astype(np.int64)
    prompts = [
        BETWEEN.join([*shown[:count], prompt])
        for count, prompt in zip(counts.tolist(), problem_type.prompts(source), strict=True)
    ]
    if problem_type.generates:
        encoded = encode_prompts(tokenizer, prompts, max_length=max_length, room=problem_type.new_tokens)
        return replace(rows, prompts=encoded), counts
    encoded = encode_prompted(tokenizer, prompts, problem_type.candidates(source), max_length=max_length)
    return replace(rows, encoded=encoded), counts


def _tokens(tokenizer: Any, text: str) -> list[int]:
    with TOKENIZING:
        found: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return found
