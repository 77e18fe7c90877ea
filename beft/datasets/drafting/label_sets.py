"""Find the column of a file whose rows can have several labels: lists, or texts with a separator between labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beft.datasets.description import canonical
from beft.datasets.reading.raw_data import Values
from beft.datasets.targets import labels_in

LABEL_NAMES = "label labels class category target sentiment intent topic queue verdict answer gold y"
MOST_LABELS = 200
_SET_NAMES = "labels tags intents topics categories classes genres themes codes emotions targets"
_SEPARATORS = ("|", ";", ",")
_LONGEST = 60
"""Characters of a label at most, where a text is divided into labels."""


@dataclass(frozen=True)
class LabelSets:
    """A column whose rows can have several labels.

    Attributes:
        separator: What stands between the labels of a text; None: each row has a list.
        counts: Rows of each label, in the order of their names.
        empty: Rows without a label.
    """

    column: str
    separator: str | None
    counts: Mapping[str, int]
    empty: int


def find_label_sets(columns: Values, candidates: Sequence[str], *, chosen: bool = False) -> LabelSets | None:
    """The first of the candidates whose rows have several labels; None without one.

    Where the name of some says that they hold labels, only these are looked at; else only those that hold lists.

    A column of lists has them where no more than ``MOST_LABELS`` differ, and each stands in two rows on average. Texts
    are divided where that shows: two rows or more have several labels, there are fewer labels than different texts, and
    each label stands in two rows or more on average. Rows without a value are passed over.

    Args:
        candidates: Names of columns.
        chosen: Whether they are looked at whatever their names are.
    """
    known = [*_SET_NAMES.split(), *LABEL_NAMES.split()]
    named = [name for name in candidates if name.strip().lower() in known]
    named.sort(key=lambda name: known.index(name.strip().lower()))
    for name in candidates if chosen or not named else named:
        values = columns[name]
        if any(isinstance(value, list | tuple) for value in values):
            if found := _counted(name, values, None):
                return found
            continue
        for separator in _SEPARATORS if chosen or named else ():
            found = _counted(name, values, separator)
            if found and _is_divided(values, found):
                return found
    return None


def _counted(name: str, values: Sequence[Any], separator: str | None) -> LabelSets | None:
    """The labels of a column; None where they are none, too many, or hardly one stands in a second row."""
    counts: Counter[str] = Counter()
    empty = 0
    for value in values:
        if value is None:  # 'check' names the rows that lack it
            continue
        labels = labels_in(value, separator)
        if labels is None or any(one is None or isinstance(one, float) for one in labels):
            return None
        counts.update({canonical(one) for one in labels})
        empty += not labels
    if not 2 <= len(counts) <= MOST_LABELS or counts.total() < 2 * len(counts) or "" in counts:
        return None
    return LabelSets(name, separator, dict(sorted(counts.items())), empty)


def _is_divided(values: Sequence[Any], found: LabelSets) -> bool:
    """Whether texts are sets of labels, rather than a label or a sentence each that the separator happens to be in."""
    several = sum(len(labels_in(value, found.separator) or ()) > 1 for value in values if value is not None)
    different = {canonical(value) for value in values if value is not None and value.strip()}
    return several >= 2 and len(found.counts) < len(different) and max(map(len, found.counts)) <= _LONGEST
