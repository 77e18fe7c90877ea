"""Parts of the rows in which a challenger must not lose what it gains elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError
from beft.names import unknown_name

_LENGTHS = ("short", "middling", "long")
MOST_VALUES = 20
"""A slice for each of more values would hold too few rows, and there would be too many to judge."""


def row_slices(
    names: Sequence[str],
    *,
    lengths: NDArray[np.int64],
    labels: Sequence[str] | Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[object]],
) -> dict[str, NDArray[np.bool_]]:
    """Which rows belong to each slice, by a name like ``label=positive``; labels are left out where they are many.

    Args:
        names: What to slice by: ``length`` (thirds of the rows by their tokens), ``label`` (the true one), or a column.
        lengths: Tokens of each row.
        labels: The name of each row's true label; or the names of its labels, and the row is in the slice of each.
        columns: Further columns of the rows, by name.

    Raises:
        InputError: A name is none of them, or a column has too many values to be sliced by.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    for name in names:
        if name == "length":
            borders = np.quantile(lengths, [1 / 3, 2 / 3])
            thirds = np.searchsorted(borders, lengths, side="left")
            values: NDArray[np.object_] = np.array([_LENGTHS[third] for third in thirds], dtype=object)
        elif name == "label" and any(not isinstance(label, str) for label in labels):
            if not too_many_labels(labels):
                known = sorted({one for of_row in labels for one in of_row})
                found |= {f"label={one}": np.array([one in of_row for of_row in labels]) for one in known}
            continue
        elif name == "label":
            values = np.array(list(labels), dtype=object)
        elif name in columns:
            values = np.array([str(value) for value in columns[name]], dtype=object)
        else:
            raise InputError(unknown_name(name, ("length", "label", *columns), "slice"))
        each = sorted(set(values.tolist()))
        if name == "label" and too_many_labels(labels):
            continue
        if len(each) > MOST_VALUES:
            raise InputError(
                f"slice {name!r} has {len(each)} values; a column of at most {MOST_VALUES} can be used: take it out of "
                "promotion.slices"
            )
        found |= {f"{name}={value}": values == value for value in each}
    return found


def too_many_labels(labels: Sequence[str] | Sequence[Sequence[str]]) -> int:
    """How many different labels there are, where they are too many for a slice each; else 0."""
    count = len({one for label in labels for one in ([label] if isinstance(label, str) else label)})
    return count if count > MOST_VALUES else 0
