"""What the analyses that judge every method in every cell have in common."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


class OverCells:
    """Findings by cell and method, and by method over all cells.

    Attributes:
        cells: One finding a cell and method, each with its ``cell``.
        overall: Method -> what was found over the cells.
        notes: What was left out, and why.
    """

    cells: tuple[Any, ...]
    overall: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "cells": [{**asdict(one), "cell": one.cell._asdict()} for one in self.cells],
            "overall": {method: asdict(found) for method, found in self.overall.items()},
            "notes": list(self.notes),
        }
