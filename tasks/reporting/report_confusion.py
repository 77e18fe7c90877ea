"""The confusion table of the report: true labels by predicted ones; of many labels the pairs that are most confused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.reporting.formatting import percent

_MOST_LABELS, _MOST_PAIRS, _LONGEST_NAME = 20, 20, 24


def confusion_table(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page shows of ``confusion`` in ``evaluation.json``; None where there is none.

    Returns:
        ``rows``, a line a true label, for few labels; ``pairs`` for many; and ``never``, labels that were true and
        never predicted.
    """
    if not found:
        return None
    names = [_short(name) for name in found["labels"]]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for true, predicted, rows in found["cells"]:
        counts[true, predicted] = rows
    of_true = counts.sum(1)
    few = len(names) <= _MOST_LABELS
    never = [
        name for name, true, predicted in zip(names, of_true, counts.sum(0), strict=True) if true and not predicted
    ]
    return {
        "labels": names,
        "rows": [_line(names[at], at, counts[at]) for at in range(len(names))] if few else [],
        "pairs": [] if few else _pairs(names, counts, of_true),
        "never": never,
    }


def _line(name: str, label: int, counts: np.ndarray) -> dict[str, Any]:
    """The row of a true label; the colour of a cell is its share of the label's rows."""
    rows = max(1, int(counts.sum()))
    cells = [
        {"text": f"{count:,}" if count else "", "share": f"{count / rows:.3f}", "own": at == label}
        for at, count in enumerate(counts.tolist())
    ]
    return {"name": name, "rows": f"{int(counts.sum()):,}", "cells": cells}


def _pairs(names: list[str], counts: np.ndarray, of_true: np.ndarray) -> list[dict[str, str]]:
    """The wrong cells with the most rows; of equal ones those of the rarer label first."""
    wrong = [(true, predicted) for true, predicted in np.argwhere(counts).tolist() if true != predicted]
    wrong.sort(key=lambda cell: (-counts[cell], of_true[cell[0]], cell))
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "rows": f"{counts[true, predicted]:,} of {of_true[true]:,}",
            "share": f"{percent(counts[true, predicted] / of_true[true])} %",
        }
        for true, predicted in wrong[:_MOST_PAIRS]
    ]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
