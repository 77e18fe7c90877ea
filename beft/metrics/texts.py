"""How right an answer in words is: exact match and F1 of SQuAD v1.1, which ReCoRD uses too.

Rajpurkar et al. 2016 (arXiv 1606.05250) and Zhang et al. 2018 (arXiv 1810.12885), as their evaluation scripts compute
it: texts are compared in lower case, without punctuation and without the articles a, an, the; a prediction counts
against the accepted answer that is nearest to it.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from beft.errors import InputError

RowScore = Callable[[str, Sequence[str]], float]
"""From a predicted text and the accepted answers of its row to a score of 0 to 1."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """A text as SQuAD v1.1 compares it: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 when the prediction is one of the answers after normalisation, otherwise 0."""
    return float(any(normalised(prediction) == normalised(answer) for answer in answers))


def squad_f1(prediction: str, answers: Sequence[str]) -> float:
    """The greatest F1 of the prediction's words and an answer's, as bags: a word counts as often as it occurs."""
    words = Counter(normalised(prediction).split())
    return max(_f1(words, Counter(normalised(answer).split())) for answer in answers)


def _f1(predicted: Counter[str], true: Counter[str]) -> float:
    common = (predicted & true).total()
    return 2 * common / (predicted.total() + true.total()) if common else 0.0


def checked_texts(texts: object) -> list[str]:
    """Predicted texts as a list.

    Raises:
        InputError: Anything but a list of texts.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise InputError("predicted answers must be a list of texts, one a row")
    return list(texts)
