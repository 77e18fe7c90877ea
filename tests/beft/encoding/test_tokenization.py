"""Batches: every row once, hardly any padding, the same on every machine."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from beft.comparison.demonstrations import with_demonstrations
from beft.datasets.prepared import Rows
from beft.encoding.tokenization import (
    TOKENIZING,
    Encoded,
    parts_of_like_length,
    sorted_batches,
    token_batches,
    training_batches,
)
from beft.encoding.tokenizer_facts import tokenizer_facts
from beft.problems.candidates import Candidates
from tests.support.shapes import PROMPT, letter_tokenizer


@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=300),
    batch_size=st.integers(1, 32),
    seed=st.integers(0, 2**31),
    epoch=st.integers(1, 50),
)
def test_every_row_is_in_one_batch(lengths, batch_size, seed, epoch):
    lengths = np.array(lengths)
    for batches in (
        training_batches(lengths, batch_size, seed=seed, epoch=epoch),
        list(sorted_batches(lengths, batch_size)),
    ):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert len(batches) == -(-len(lengths) // batch_size)
        assert max(map(len, batches)) <= batch_size


@given(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=300), tokens=st.integers(1, 3000))
def test_batches_of_tokens_are_as_large_as_they_may_be(lengths, tokens):
    lengths = np.array(lengths)
    batches = list(token_batches(lengths, tokens))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch, after in itertools.zip_longest(batches, batches[1:]):
        longest = int(lengths[batch].max())
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert after is None or (len(batch) + 1) * longest > tokens
        assert after is None or lengths[batch].min() >= lengths[after].max()


def test_padding_is_under_a_tenth_of_the_tokens():
    lengths = np.random.default_rng(0).gamma(4, 7, 1000).astype(int).clip(3, 128)
    for epoch in range(1, 4):
        batches = training_batches(lengths, 16, seed=0, epoch=epoch)
        padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
        assert 1 - lengths.sum() / padded < 0.1


@given(
    lengths=st.lists(st.integers(1, 128), min_size=1, max_size=60),
    least=st.integers(1, 20),
    most=st.none() | st.integers(1, 60),
)
def test_parts_hold_every_row_once_and_keep_to_their_bounds(lengths, least, most):
    lengths = np.array(lengths)
    parts = parts_of_like_length(lengths, min_rows=least, max_rows=most)
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    if most is None:
        assert len(parts) == 1 or min(map(len, parts)) >= least
    else:
        assert max(map(len, parts)) <= most
    padded = sum(len(part) * lengths[part].max() for part in parts)
    assert padded <= len(lengths) * lengths.max()
    if len(parts) == 1:
        assert list(parts[0]) == list(range(len(lengths))), "a whole step keeps its order"


def test_order_differs_by_epoch_and_seed_and_is_the_same_everywhere():
    lengths = np.arange(100) % 13 + 3
    orders = {
        (seed, epoch): np.concatenate(training_batches(lengths, 8, seed=seed, epoch=epoch)).tolist()
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len({str(order) for order in orders.values()}) == 4
    # Committed once: a change of the order would change every adapter.
    digest = hashlib.sha256(np.array(orders[0, 1], dtype="<i8").tobytes()).hexdigest()
    assert digest.startswith("dc3179683ab4fa9f")


@pytest.mark.parametrize("pad_left", [False, True])
def test_batch_pads_to_its_longest_row(pad_left):
    encoded = Encoded([[5, 6, 7], [8], [9, 9]], [[0, 0, 1], [0], [1, 1]], np.array([3, 1, 2]), 0, 1, pad_left)
    batch = encoded.batch([1, 2])
    ids = [[1, 8], [9, 9]] if pad_left else [[8, 1], [9, 9]]
    assert torch.equal(batch["input_ids"], torch.tensor(ids))
    assert torch.equal(batch["attention_mask"], (batch["input_ids"] != 1).long())
    assert torch.equal(batch["token_type_ids"], torch.tensor([[0, 0], [1, 1]]))


def test_a_tokenizer_is_used_under_its_lock_for_facts_and_demonstrations(monkeypatch):
    plain, held = letter_tokenizer(), []

    class Watched(type(plain)):
        def __call__(self, *args, **kwargs):
            held.append(TOKENIZING._is_owned())
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(plain, "__class__", Watched)
    tokenizer_facts(plain, 32)
    shape = Candidates(PROMPT, ("no", "yes"))
    rows = shape.examples(plain, Rows(["1"], ["ab"], None, [1]), 64)
    found, counts = with_demonstrations(shape, plain, rows, ["ab=yes"], 64)
    assert counts.tolist() == [1]
    assert found.lengths[0] > rows.lengths[0]
    assert held and all(held)
