"""Tags of words and spans of characters: cases by hand, a round trip, and a second way to read tags."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beft.datasets.words import words_of
from beft.encoding.iob2 import tag_names, tagged_spans, tags_of

TEXT = "In New York City , Oslo"
WORDS = words_of(TEXT, "spaces")
NAMES = tag_names(["LOC", "ORG"])


def spans_of(tags, words=(WORDS,), scores=None):
    numbers = np.array([NAMES.index(tag) for tag in tags])
    return tagged_spans(numbers, np.ones(len(tags)) if scores is None else np.array(scores), words)


def named(tags):
    [spans] = spans_of(tags)
    return [(TEXT[span.start : span.end], span.label) for span in spans]


def test_tags_by_hand():
    assert NAMES == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    assert named(["O", "B-LOC", "I-LOC", "I-LOC", "O", "B-LOC"]) == [("New York City", 0), ("Oslo", 0)]
    assert named(["O", "B-LOC", "B-LOC", "I-LOC", "O", "O"]) == [("New", 0), ("York City", 0)]
    assert named(["O", "I-LOC", "I-LOC", "O", "O", "I-ORG"]) == [("New York", 0), ("Oslo", 1)], "an I- begins one, too"
    assert named(["O", "B-LOC", "I-ORG", "I-LOC", "O", "O"]) == [("New", 0), ("York", 1), ("City", 0)]
    assert named(["O", "O", "O", "O", "O", "O"]) == []
    assert named(["B-ORG", "I-ORG", "I-ORG", "I-ORG", "I-ORG", "I-ORG"]) == [(TEXT, 1)]


def test_a_span_never_goes_on_in_the_next_text():
    words = [WORDS[:2], [], WORDS[:1]]
    first, nothing, last = spans_of(["O", "B-LOC", "I-LOC"], words)
    assert [(span.start, span.end) for span in first] == [(3, 6)] and nothing == []
    assert [(span.start, span.end) for span in last] == [(0, 2)]


def test_the_score_of_a_span_is_the_mean_over_its_words():
    [[span, other]] = spans_of(["O", "B-LOC", "I-LOC", "O", "O", "B-LOC"], scores=[0.1, 0.4, 0.8, 0.2, 0.2, 0.9])
    assert abs(span.score - 0.6) < 1e-12 and abs(other.score - 0.9) < 1e-12


def test_tags_of_spans_that_share_a_word_or_cut_one():
    tags = [NAMES[number] for number in tags_of([(3, 8, 0), (8, 11, 1)], WORDS)]
    assert tags == ["O", "B-LOC", "I-LOC", "O", "O", "O"], "a word has the tag of the first span that touches it"
    assert tags_of([(2, 3, 0)], WORDS) == [0] * 6, "a span of a space touches no word"


@st.composite
def _entities(draw):
    words = draw(st.integers(1, 12))
    cuts = sorted(draw(st.sets(st.integers(0, words), max_size=6)))
    kept = [draw(st.integers(-1, 1)) for _ in cuts[1:]]
    text = " ".join("w" * draw(st.integers(1, 3)) for _ in range(words))
    places = words_of(text, "spaces")
    spans = [
        (places[first][0], places[last - 1][1], label)
        for first, last, label in zip(cuts, cuts[1:], kept, strict=False)
        if label >= 0
    ]
    return places, spans


@given(st.lists(_entities(), min_size=1, max_size=4))
def test_spans_to_tags_and_back(drawn):
    tags = np.array([tag for places, spans in drawn for tag in tags_of(spans, places)])
    found = tagged_spans(tags, np.ones(len(tags)), [places for places, _ in drawn])
    assert [[tuple(span[:3]) for span in of_text] for of_text in found] == [spans for _, spans in drawn]


def one_by_one(tags):
    """The spans of one text in numbers of words, read from left to right."""
    spans = []
    for at, tag in enumerate(tags):
        if tag == "O":
            continue
        prefix, label = tag.split("-")
        if prefix == "I" and at and tags[at - 1][2:] == label:
            spans[-1][1] = at + 1
        else:
            spans.append([at, at + 1, label])
    return spans


@given(st.lists(st.lists(st.sampled_from(NAMES), max_size=8), min_size=1, max_size=4))
def test_any_tags_are_read_as_from_left_to_right(texts):
    words = [[(at, at + 1) for at in range(len(tags))] for tags in texts]
    found = spans_of([tag for tags in texts for tag in tags], words)
    expected = [[[first, last, ["LOC", "ORG"].index(label)] for first, last, label in one_by_one(t)] for t in texts]
    assert [[list(span[:3]) for span in of_text] for of_text in found] == expected
