"""Behavioural checks: a text is changed in what should not matter, and the answer should stay.

Source of the idea: invariance tests of CheckList (Ribeiro et al., 2020), arXiv 2005.04118.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beft.encoding.examples import Predictions
from beft.metrics.label_sets import SET_FROM
from beft.metrics.spans import Span

Perturbation = Callable[[str], str]
"""From a text to one that means the same for the task; the same text where there is nothing to change."""

# First names that say nothing of a text's label, common among English speakers; each is swapped for the next one.
_NAMES = (
    "James",
    "Mary",
    "Robert",
    "Patricia",
    "John",
    "Jennifer",
    "Michael",
    "Linda",
    "David",
    "Elizabeth",
    "William",
    "Susan",
    "Richard",
    "Jessica",
    "Joseph",
    "Sarah",
    "Thomas",
    "Karen",
    "Charles",
    "Nancy",
    "Daniel",
    "Lisa",
    "Matthew",
    "Anna",
    "Mark",
    "Emily",
    "Paul",
    "Julia",
    "Peter",
    "Laura",
)
_SWAP = dict(zip(_NAMES, (*_NAMES[2:], *_NAMES[:2]), strict=True))
_NAME = re.compile(rf"\b({'|'.join(_NAMES)})\b", re.IGNORECASE)
_MOVED = 0.1
_END = re.compile(r"[\s.!…]+$")


def swap_case(text: str) -> str:
    """The text in lower case; one that is in lower case already, in capitals at the beginning of each sentence."""
    lower = text.lower()
    if lower != text:
        return lower
    return re.sub(r"(^|[.!?]\s+)(\w)", lambda found: found[1] + found[2].upper(), text)


def change_punctuation(text: str) -> str:
    """The text without its full stop, or with one where it has none; a question stays one."""
    if text.rstrip().endswith("?"):
        return text
    bare = _END.sub("", text)
    if not bare:
        return text
    return bare if bare != text.rstrip() else f"{bare} ."


def swap_names(text: str) -> str:
    """The text with each common first name replaced by another of the same kind, in the case that it stands in."""

    def swapped(found: re.Match[str]) -> str:
        name = found[0]
        other = _SWAP[name.capitalize()]
        return other.lower() if name.islower() else other.upper() if name.isupper() else other

    return _NAME.sub(swapped, text)


PERTURBATIONS: dict[str, Perturbation] = {"case": swap_case, "punctuation": change_punctuation, "names": swap_names}
"""The perturbations by the names that the rules give them."""


def perturb(name: str, texts: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """The changed texts, and which of them did change."""
    changed = [PERTURBATIONS[name](text) for text in texts]
    return changed, np.array([new != old for new, old in zip(changed, texts, strict=True)], dtype=bool)


def flip_rate(before: Predictions, after: Predictions, changed: NDArray[np.bool_], *, sets: bool = False) -> float:
    """The share of the changed texts whose answer changed, 0 where no text did.

    An answer is the likeliest label or choice, a text, or the labels of a text's spans in their order (where they stand
    moves with the text); a value has changed when it moved by more than a tenth of the
    standard deviation of all values.

    Args:
        before: Predictions for the texts: probabilities [rows, labels], values [rows], texts, or spans.
        after: Predictions for the changed texts, likewise.
        changed: Which texts changed, [rows].
        sets: Whether a row can have several labels: predictions are scores [rows, labels], and the answer is the set of
            labels that are given from 0.5 on.
    """
    if not changed.any():
        return 0.0
    if isinstance(before, list):
        pairs = zip(map(_plain, before), map(_plain, after), strict=True)
        moved = np.array([old != new for old, new in pairs], dtype=bool)
    elif before.ndim == 2:
        if sets:
            moved = ((before >= SET_FROM) != (np.asarray(after) >= SET_FROM)).any(-1)
        else:
            moved = before.argmax(-1) != np.asarray(after).argmax(-1)
        moved |= ~np.isfinite(np.asarray(after)).all(-1)  # NaN is no answer
    else:
        moved = ~(np.abs(before - np.asarray(after)) <= _MOVED * before.std())  # NaN has moved
    return float(moved[changed].mean())


def _plain(answer: str | Sequence[Span]) -> Any:
    """A text as it is; of spans their labels."""
    return answer if isinstance(answer, str) else [span.label for span in answer]
