"""Parts of the rows in which a challenger must not lose what it gains elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError
from beft.names import unknown_name

_LENGTHS = ("short", "middling", "long")
_MOST_VALUES = 20


def row_slices(
    names: Sequence[str],
    *,
    lengths: NDArray[np.int64],
    labels: Sequence[str],
    columns: Mapping[str, Sequence[object]],
) -> dict[str, NDArray[np.bool_]]:
    """Which rows belong to each slice, by a name like ``label=positive``.

    Args:
        names: What to slice by: ``length`` (thirds of the rows by their tokens), ``label`` (the true one), or a column.
        lengths: Tokens of each row.
        labels: The name of each row's true label.
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
        elif name == "label":
            values = np.array(list(labels), dtype=object)
        elif name in columns:
            values = np.array([str(value) for value in columns[name]], dtype=object)
        else:
            raise InputError(unknown_name(name, ("length", "label", *columns), "slice"))
        each = sorted(set(values.tolist()))
        if len(each) > _MOST_VALUES:
            raise InputError(f"slice {name!r} has {len(each)} values; a column of at most {_MOST_VALUES} can be used")
        found |= {f"{name}={value}": values == value for value in each}
    return found
