"""Texts in windows: every word is read once, at its first token, in order, where it has most context."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beft.datasets.words import words_of
from beft.encoding.windows import _read_positions, _Window, encode_words
from beft.errors import InputError
from tests.support.tiny_bases import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CUTS_LEFT = tiny_tokenizer()
CUTS_LEFT.truncation_side = "left"
both_sides = pytest.mark.parametrize("tokenizer", [TOKENIZER, CUTS_LEFT], ids=["right", "left"])


def encoded(texts, max_length=16, rule="punctuation", tokenizer=TOKENIZER):
    words = [words_of(text, rule) for text in texts]
    return words, *encode_words(tokenizer, texts, words, max_length=max_length)


def read_tokens(found, sizes, row):
    """The token that each word of a row is read at."""
    first = int(sizes[:row].sum())
    windows = range(first, first + int(sizes[row]))
    return [found.input_ids[at][place] for at in windows for place in found.positions[at]]


texts = st.lists(st.sampled_from([*WORDS, "goodness", "xyz", "dull.", "(a)", "ab,c"]), min_size=1, max_size=40)


@both_sides
@settings(max_examples=60)
@given(
    st.lists(texts.map(" ".join), min_size=1, max_size=4),
    st.integers(6, 40),
    st.sampled_from(["spaces", "punctuation"]),
)
def test_every_word_is_read_once_at_its_first_token(tokenizer, rows, max_length, rule):
    words, found, sizes = encoded(rows, max_length, rule, tokenizer)
    assert found.truncated == 0 and not found.cut.any() and found.lengths.max() <= max_length
    for row, text in enumerate(rows):
        expected = [TOKENIZER(text[first:last], add_special_tokens=False)["input_ids"][0] for first, last in words[row]]
        assert read_tokens(found, sizes, row) == expected


@st.composite
def windows_and_words(draw):
    """Tokens, gaps between them among it, in overlapping windows of which some hold none; and words anywhere."""

    def spans(most):
        steps = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=most))
        at = np.cumsum([step for pair in steps for step in pair], dtype=np.int64).reshape(-1, 2)
        return at[:, 0], at[:, 1]

    starts, ends = spans(30)
    room, found, first = draw(st.integers(1, 8)), [], 0
    while first < len(starts) or not found:
        stop = first + (0 if draw(st.integers(0, 5)) == 0 else room)
        found.append(_Window(np.arange(1, len(starts[first:stop]) + 1), starts[first:stop], ends[first:stop]))
        first = max(first, stop - draw(st.integers(0, room - 1)))
    return found, list(zip(*(side.tolist() for side in spans(20)), strict=True))


def one_by_one(words, windows):
    """The same by the definition: every word is looked for in every window."""
    found, number = [[] for _ in windows], 0
    for first, last in words:
        read, contexts = [], []
        for _, starts, ends in windows:
            token = next((at for at, end in enumerate(ends) if end > first), len(ends))
            inside = token < len(ends) and starts[token] < last
            read.append(token if inside else max(token - 1, 0))
            held = inside or 0 < token < len(ends)
            contexts.append(min(token, len(ends) - 1 - token) if held else -1)
        number = max(number, contexts.index(max(contexts)))
        places = windows[number].places
        found[number].append(int(places[read[number]]) if len(places) else 0)
    return found


@settings(max_examples=300)
@given(windows_and_words())
def test_looking_at_the_stretch_of_a_window_is_looking_at_all_words(drawn):
    windows, words = drawn
    assert _read_positions(words, windows) == one_by_one(words, windows)


def test_memory_is_linear_in_the_length_of_a_text():
    def peak(words):
        text = "film " * words
        of_text = [words_of(text, "spaces")]
        tracemalloc.start()
        encode_words(TOKENIZER, [text], of_text, max_length=16)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(8000) < 6 * peak(2000)


@both_sides
def test_a_word_has_context_on_both_sides(tokenizer):
    text = " ".join(["film"] * 100)
    _, found, sizes = encoded([text], tokenizer=tokenizer)
    [count] = sizes.tolist()
    room, overlap = 14, 3
    assert count == -(-(100 - overlap) // (room - overlap))
    places = [np.array(read) for read in found.positions]
    assert sum(map(len, places)) == 100
    for number, (read, length) in enumerate(zip(places, found.lengths, strict=True)):
        assert number == 0 or read.min() > 1, "not at the edge of a window that follows another"
        assert number == count - 1 or read.max() < length - 2


def test_a_text_without_words_or_tokens_of_its_own():
    words, found, sizes = encoded(["a film", "", " ", "\u200b good"], rule="spaces")
    assert sizes.tolist() == [1, 1, 1, 1] and found.positions[1] == found.positions[2] == []
    assert len(words[3]) == 2 and len(found.positions[3]) == 2, "a word without a token is read at the one before it"
    batch = found.batch([0, 1])
    assert batch["word_positions"].tolist() == [[1, 2], [-1, -1]]


def test_outputs_of_some_texts():
    _, found, _ = encoded(["a film", "good", "", "not so good"])
    assert found.output_count == 6
    assert found.outputs_of(np.array([3, 0])).tolist() == [3, 4, 5, 0, 1]
    assert found.outputs_of(np.array([2])).tolist() == []
    some = found.take([3, 1])
    assert some.output_count == 4 and some.positions == [found.positions[3], found.positions[1]]


def test_what_cannot_be_encoded():
    with pytest.raises(InputError, match="leaves 3 tokens for the text"):
        encoded(["a film"], 5)
    with pytest.raises(InputError, match="no text to encode"):
        encoded([])

    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="fast tokenizer"):
        encoded(["a"], tokenizer=Slow())


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["byte-level", "sentence-piece"])
def test_other_kinds_of_tokenizers(family, side):
    """A space belongs to the token behind it there: by its offsets, or as a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    if family == "byte-level":
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    else:
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    corpus = ["the film was good, (not dull) in Oslo.", "a good film in Oslo"] * 5
    made.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "<pad>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", model_max_length=64, truncation_side=side
    )
    text = "the film, (good) in Oslo. " * 6
    words, found, sizes = encoded([text], 12, tokenizer=tokenizer)
    assert sizes[0] > 3
    whole = tokenizer(text, return_offsets_mapping=True)
    expected = []
    for first, last in words[0]:
        inside = [
            token
            for token, (start, end) in zip(whole["input_ids"], whole["offset_mapping"], strict=True)
            if min(end, last) > max(start, first) and text[max(start, first) : min(end, last)].strip()
        ]
        expected.append(inside[0])
    assert read_tokens(found, sizes, 0) == expected
