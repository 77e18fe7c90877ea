"""Texts to tokens, once; and batches of rows of like length, so that hardly any padding is computed."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from beft.errors import InputError, RowError
from beft.sites.batch_axis import Batch

# Rows are sorted by length within blocks of this many batches: enough to keep padding under 10 % of the tokens,
# few enough that the order of training stays random.
_BLOCK = 32

TOKENIZING = threading.RLock()
"""Held while a tokenizer is used: a fast one keeps how it cuts texts as state, which threads would change for each
other."""

_PADDING = 0.1
"""The share of a step's tokens that may be padding."""


@dataclass(frozen=True)
class Encoded:
    """Tokenized texts.

    Attributes:
        input_ids: The tokens of each text, cut to the maximal length, unpadded.
        type_ids: The segment of each token, where the tokenizer gives one.
        lengths: Tokens a row, int64.
        truncated: How many texts were longer than the maximal length.
        pad_left: Whether batches are padded on the left, as prompts are that a model continues.
        answers: For a language model: how many tokens at the end of each text are the answer, int64.
        cut: Which texts were longer than the maximal length, bool; None: not recorded for each.
        positions: Where a model has an output for each word: the positions of the tokens at which the words of each
            text are read; None: it has one output for each text.
    """

    input_ids: list[list[int]]
    type_ids: list[list[int]] | None
    lengths: np.ndarray
    truncated: int
    pad_id: int
    pad_left: bool = False
    answers: np.ndarray | None = None
    cut: np.ndarray | None = None
    positions: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def output_count(self) -> int:
        """How many outputs a model has for all texts: one each, or one for each word."""
        return len(self) if self.positions is None else int(self._output_counts.sum())

    def outputs_of(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the outputs of some texts, in their order."""
        if self.positions is None:
            return rows
        counts = self._output_counts
        starts = np.cumsum(counts) - counts
        chosen = counts[rows]
        within = np.arange(chosen.sum()) - np.repeat(np.cumsum(chosen) - chosen, chosen)
        return np.asarray(np.repeat(starts[rows], chosen) + within)

    @cached_property
    def _output_counts(self) -> np.ndarray:
        assert self.positions is not None
        return np.array([len(of_text) for of_text in self.positions], dtype=np.int64)

    def take(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Some of the texts, in this order."""

        def of(values: list[list[int]]) -> list[list[int]]:
            return [values[row] for row in rows]

        return replace(
            self,
            input_ids=of(self.input_ids),
            type_ids=None if self.type_ids is None else of(self.type_ids),
            lengths=self.lengths[rows],
            answers=None if self.answers is None else self.answers[rows],
            cut=None if self.cut is None else self.cut[rows],
            positions=None if self.positions is None else of(self.positions),
        )

    def batch(self, rows: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> Batch:
        """The padded tensors of some rows, each [rows, longest row]; ``answer_mask`` where there are answers.

        Where words are read, ``word_positions`` [rows, most words] has the position of each, and -1 behind the last.
        """
        width = int(self.lengths[rows].max())
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        types = np.zeros((len(rows), width), dtype=np.int64)
        answered = np.zeros((len(rows), width), dtype=np.int64)
        for at, row in enumerate(rows):
            length = int(self.lengths[row])
            span = slice(width - length, width) if self.pad_left else slice(0, length)
            ids[at, span] = self.input_ids[row]
            mask[at, span] = 1
            if self.type_ids is not None:
                types[at, span] = self.type_ids[row]
            if self.answers is not None:
                answered[at, span.stop - int(self.answers[row]) : span.stop] = 1
        tensors = {"input_ids": ids, "attention_mask": mask}
        if self.type_ids is not None:
            tensors["token_type_ids"] = types
        if self.answers is not None:
            tensors["answer_mask"] = answered
        if self.positions is not None:
            read = [self.positions[row] for row in rows]
            tensors["word_positions"] = np.full((len(rows), max(map(len, read))), -1, dtype=np.int64)
            for at, of_text in enumerate(read):
                tensors["word_positions"][at, : len(of_text)] = of_text
        return {name: torch.from_numpy(array).to(device) for name, array in tensors.items()}


def token_limit(tokenizer: Any, max_length: int) -> int:
    """Tokens that a text is cut to: ``max_length``, or what the tokenizer's own configuration allows, if less."""
    return min(max_length, int(tokenizer.model_max_length))


def row_of(sequence: int, sizes: np.ndarray | None) -> int:
    """The row that a sequence is of, where rows have several (``sizes`` each)."""
    return sequence if sizes is None else int(np.searchsorted(np.cumsum(sizes), sequence, side="right"))


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int,
    sizes: np.ndarray | None = None,
) -> Encoded:
    """Tokenize texts, or pairs of texts, each cut to ``max_length`` tokens.

    They are padded on the right, whatever the tokenizer does by itself: heads and poolings that read the first token
    find it there, and no text's positions depend on how long its neighbours are.

    Args:
        sizes: How many of the texts each row has, for messages; None: one each.

    Raises:
        InputError: There is no text, or one has no token.
    """
    if not texts:
        raise InputError("there is no text to encode")
    limit = token_limit(tokenizer, max_length)
    second = list(pairs) if pairs is not None else None
    # Counting needs the whole texts: a fast tokenizer's overflow differs between single texts and pairs.
    with TOKENIZING:
        whole = tokenizer(list(texts), second, truncation=False, verbose=False, return_attention_mask=False)
        kept = tokenizer(list(texts), second, truncation=True, max_length=limit, return_attention_mask=False)
    cut = np.array([len(row) > limit for row in whole["input_ids"]])
    ids = kept["input_ids"]
    type_ids = kept.get("token_type_ids")
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    if not lengths.all():
        raise RowError(row_of(int(np.flatnonzero(lengths == 0)[0]), sizes), "has no token")
    return Encoded(ids, type_ids, lengths, int(cut.sum()), tokenizer.pad_token_id, cut=cut)


def sorted_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, longest first: for predicting, where the order does not matter."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def token_batches(lengths: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Rows in batches of like length, longest first: as many as make up a number of tokens, padding counted.

    A row that is longer than this is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def parts_of_like_length(lengths: np.ndarray, *, min_rows: int, max_rows: int | None = None) -> list[np.ndarray]:
    """Divide the rows of one step so that under a tenth of what is computed is padding.

    Args:
        lengths: Tokens of each row.
        min_rows: Fewer rows than this are not divided off, for small parts compute slowly: they may be padded more.
        max_rows: The most rows of a part.

    Returns:
        Positions of the rows: all of them in their own order, or several parts, sorted by length.
    """
    rows = len(lengths)
    fewest = 1 if max_rows is None else -(-rows // max_rows)
    order = np.argsort(lengths, kind="stable")
    for count in range(fewest, max(fewest, rows // min_rows) + 1):
        parts = np.array_split(order, count)
        padded = sum(len(part) * int(lengths[part].max()) for part in parts)
        if 1 - lengths.sum() / padded < _PADDING:
            break
    return [np.arange(rows)] if len(parts) == 1 else parts


def training_batches(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: shuffled, of like length within, the same on every machine for a seed and epoch.

    Rows are permuted by the seed, sorted by length within blocks of 32 batches, and cut into batches. The order of the
    batches is the same for all seeds, so that at each step all runs have texts of about the same length.
    """
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(len(lengths))
    block = batch_size * _BLOCK
    batches = []
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[at] for at in np.random.Generator(np.random.PCG64(epoch)).permutation(len(batches))]
