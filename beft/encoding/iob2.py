"""Tags of words as numbers: 0 is O, and of the label number k, B- is 2k + 1 and I- is 2k + 2 (IOB2)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beft.datasets.words import words_of_span
from beft.metrics.spans import Span

NO_WORD = -100
"""What stands behind the last word of an example among tags; the loss of torch ignores it by that number too."""

Words = Sequence[Sequence[tuple[int, int]]]


def tag_names(labels: Sequence[str]) -> list[str]:
    """The names of the tags, in the order of their numbers."""
    return ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]


def tags_of(spans: Sequence[Sequence[int]], words: Sequence[tuple[int, int]]) -> list[int]:
    """The tag of each word of a text: that of the first of the spans that touch it.

    Args:
        spans: Start, end and number of the label of each, in order.
        words: The characters of each word.
    """
    tags = [0] * len(words)
    for start, end, label in spans:
        first, last, _ = words_of_span(list(words), start, end)
        free = [at for at in range(first, last) if not tags[at]]
        for at in free:
            tags[at] = 2 * label + 1 if at == free[0] else 2 * label + 2
    return tags


def tagged_spans(tags: NDArray[np.int64], scores: NDArray[np.float64], words: Words) -> list[list[Span]]:
    """The spans that tags say; an I- that continues none begins one, as in the CoNLL shared tasks' own evaluation.

    Args:
        tags: Of all words of all texts, one after the other.
        scores: How sure each tag is; a span has the mean over its words.
        words: The characters of each word of each text.
    """
    counts = np.array([len(of_text) for of_text in words], dtype=np.int64)
    if not counts.sum():
        return [[] for _ in words]
    row = np.repeat(np.arange(len(words)), counts)
    places = np.array([place for of_text in words for place in of_text], dtype=np.int64)
    label = (tags - 1) // 2  # of O it is -1
    same = np.zeros(len(tags), dtype=bool)
    same[1:] = (label[1:] == label[:-1]) & (row[1:] == row[:-1])
    continues = (tags > 0) & (tags % 2 == 0) & same
    begins = np.flatnonzero((tags > 0) & ~continues)
    lasts = _lasts(begins, continues)
    found: list[list[Span]] = [[] for _ in words]
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    means = (sums[lasts + 1] - sums[begins]) / (lasts + 1 - begins)
    for first, last, mean in zip(begins.tolist(), lasts.tolist(), means.tolist(), strict=True):
        found[row[first]].append(Span(int(places[first, 0]), int(places[last, 1]), int(label[first]), mean))
    return found


def _lasts(begins: NDArray[np.int64], continues: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last word of each span, from its first one and which words continue the one before."""
    stops = np.flatnonzero(~np.concatenate([continues, [False]]))
    return np.asarray(stops[np.searchsorted(stops, begins, side="right")] - 1)
