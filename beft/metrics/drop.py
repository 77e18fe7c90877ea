"""How right an answer is that may be a number, a date or several spans: exact match and F1 of DROP.

Dua et al. 2019 (arXiv 1903.00161), as its evaluation script computes it. An answer of several spans has one span on
each line, in predictions and in accepted answers alike.
"""

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Spans(NamedTuple):
    """An answer as it is compared: each span's normalised text, and its distinct words."""

    texts: list[str]
    words: list[frozenset[str]]


def drop_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction's spans are those of an answer after normalisation, in any order, otherwise 0."""
    predicted = spans_of(prediction)
    return max((_exact(predicted, spans_of(answer)) for answer in answers if _counts(answer)), default=0.0)


def drop_f1(prediction: str, answers: Sequence[str]) -> float:
    """The greatest F1 of the prediction and an answer.

    Spans are aligned one to one so that their F1s sum to the most, and the mean is over the spans of whichever has
    more. A predicted span without a number that the true one has is no match. Rounded to two decimals, as
    published.
    """
    predicted = spans_of(prediction)
    return max((_aligned_f1(predicted, spans_of(answer)) for answer in answers if _counts(answer)), default=0.0)


def spans_of(answer: str) -> Spans:
    """The spans of an answer, one on each line; an empty answer is one empty span."""
    texts = [_normalised(line) for line in answer.split("\n") if line.strip()] or [""]
    return Spans(texts, [frozenset(text.split()) for text in texts])


def _counts(answer: str) -> bool:
    """The published script passes over accepted answers that are empty."""
    return bool(answer.strip())


def _exact(predicted: Spans, true: Spans) -> float:
    return float(len(predicted.texts) == len(true.texts) and set(predicted.texts) == set(true.texts))


def _aligned_f1(predicted: Spans, true: Spans) -> float:
    from scipy.optimize import linear_sum_assignment

    scores = np.array([[_f1(one, other) for one in predicted.words] for other in true.words])
    pairs = linear_sum_assignment(scores, maximize=True)
    return float(np.round(scores[pairs].sum() / max(scores.shape), 2))


def _f1(predicted: frozenset[str], true: frozenset[str]) -> float:
    numbers = {word for word in true if _is_number(word)}
    if numbers and not numbers & predicted:
        return 0.0
    common = len(predicted & true)
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(true) if true else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _normalised(text: str) -> str:
    """Lower case, words split at spaces and hyphens, numbers in one form, no punctuation, no articles."""
    words = [_normalised_word(word) for word in re.split("[ -]", text.lower())]
    return " ".join(" ".join(words).split())


def _normalised_word(word: str) -> str:
    bare = word if _is_number(word) else word.translate(_NO_PUNCTUATION)
    return str(float(bare)) if _is_number(bare) else _ARTICLES.sub(" ", bare)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
