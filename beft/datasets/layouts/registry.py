"""Layouts: how the nested JSON that published data sets are passed around in becomes rows of plain columns.

One file a layout, each a function from a document (the rows of a JSON Lines or Parquet file, or a whole JSON file) to
rows, whatever of the data set's forms it has.
"""

from collections.abc import Callable
from typing import Any

from beft.datasets.layouts.copa import copa
from beft.datasets.layouts.drop import drop
from beft.datasets.layouts.expected import LayoutError, Row
from beft.datasets.layouts.multirc import multirc
from beft.datasets.layouts.record import record
from beft.datasets.layouts.squad import squad
from beft.datasets.layouts.wic import wic
from beft.datasets.layouts.wsc import wsc
from beft.datasets.sources import LayoutName

__all__ = ["LAYOUTS", "LayoutError", "flattened"]

LAYOUTS: dict[LayoutName, Callable[[Any], list[Row]]] = {
    "copa": copa,
    "drop": drop,
    "multirc": multirc,
    "record": record,
    "squad": squad,
    "wic": wic,
    "wsc": wsc,
}


def flattened(layout: LayoutName, document: Any) -> list[Row]:
    """The rows of a document.

    Raises:
        LayoutError: It is not in this layout; the message says what was expected where, and what was found.
    """
    return LAYOUTS[layout](document)
