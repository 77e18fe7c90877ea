"""Texts and labels that a caller of Python gives, a value for each row: as plain lists, or a message with the row.

Rows are counted from 0, as in the list that was given.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beft.errors import InputError, RowError


def given_list(values: Iterable[Any], what: str) -> list[Any]:
    """The values of a list, an array, a tensor or a column, as a list.

    Args:
        what: What they are, as in ``texts``.

    Raises:
        InputError: It is one text, a mapping or a table, or cannot be read one by one.
    """
    if isinstance(values, str | bytes):
        raise InputError(f"{what} must be a list, not one text: put it into a list")
    if isinstance(values, Mapping) or hasattr(values, "columns") or hasattr(values, "column_names"):
        raise InputError(
            f"{what} must be a list, not a {type(values).__name__}: give one column of it, such as data[NAME]"
        )
    try:
        return list(values)
    except TypeError:
        raise InputError(f"{what} must be a list, not {values!r}") from None


def check_given_texts(texts: Sequence[Any], what: str = "text") -> None:
    """Refuse what is no text.

    Raises:
        RowError: A text is no string, or is blank.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"has {text!r} for its {what}; it must be a string")
        if not text.strip():
            raise RowError(row, f"has a blank {what}")


def given_labels(labels: Iterable[Any]) -> list[Any]:
    """The labels as Python's own values, also those of NumPy, pandas and torch; several of a row as a list.

    Raises:
        InputError: They are no list, or look like a table of zeros and ones.
        RowError: A row has no label, or something that can be none.
    """
    found = [_plain(label) for label in given_list(labels, "labels")]
    several = any(isinstance(label, list) for label in found)
    for row, label in enumerate(found):
        for one in label if isinstance(label, list) else [] if several else [label]:
            if not several or not isinstance(one, list | Mapping):  # those are spans
                _check_label(row, one)
    if _looks_multi_hot(found):
        raise InputError(
            "the labels look like a table of zeros and ones with a column for each label: give each row the list of "
            "its labels, such as [[names[at] for at in np.flatnonzero(row)] for row in table]"
        )
    return found


def check_names(labels: Iterable[Any]) -> None:
    """Refuse different labels of one name, such as ``1`` and ``"1"``.

    Raises:
        InputError: There are two.
    """
    named: dict[str, Any] = {}
    numbers: dict[Any, Any] = {}
    for label in labels:
        same = named.setdefault(str(label), label)
        if type(same) is type(label) and not isinstance(label, str):
            same = numbers.setdefault(label, label)  # True and 1 have two names, and are equal
        if type(same) is not type(label):
            raise InputError(f"the labels {same!r} and {label!r} cannot be told apart: give all labels one type")


def _plain(label: Any) -> Any:
    if isinstance(label, Mapping):
        return {name: _plain(value) for name, value in label.items()}
    if isinstance(label, list | tuple | set | frozenset) or getattr(label, "ndim", False):
        return [_plain(one) for one in (sorted(label) if isinstance(label, set | frozenset) else label)]
    return label.item() if hasattr(label, "item") else label


def _check_label(row: int, label: Any) -> None:
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        raise RowError(row, f"has {label!r} for its label: leave out rows without a label, or give them one")
    if isinstance(label, float) and not math.isfinite(label):
        raise RowError(row, f"has {label!r} for its label: leave out rows whose label is NaN or infinite")
    if not isinstance(label, str | bool | int | float):
        raise RowError(row, f"has {label!r} for its label: a label is a text, a number or a truth value")
    if isinstance(label, str) and not label.strip():
        raise RowError(row, "has a blank label")


def _looks_multi_hot(labels: Sequence[Any]) -> bool:
    """Whether each row has as many zeros and ones as the others, more than one."""
    widths = {len(of_row) if isinstance(of_row, list) else 0 for of_row in labels}
    if len(widths) != 1 or min(widths) < 2:
        return False
    return all(isinstance(one, bool | int | float) and one in (0, 1) for of_row in labels for one in of_row)
