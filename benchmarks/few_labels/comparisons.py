"""The arithmetic of the table, on the draws of a cell: what each method gave on each of them."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from beft.training_settings import FEW_ROWS_A_LABEL

Draws = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Of one cell: by the number of a draw and the name of a method, its accuracy, seconds and numbers trained."""


DEFAULT = "default"
"""What beft does unless a loss is named: one of the methods, by the number of rows a label."""


def with_default(cells: Mapping[str, Draws]) -> dict[str, Draws]:
    """The draws with what the default gave: it was measured under the name of its loss."""
    found: dict[str, Draws] = {}
    for name, draws in cells.items():
        few = int(name.rpartition("/")[2]) < FEW_ROWS_A_LABEL
        own = "contrastive" if few else "cross_entropy"
        found[name] = {
            number: {**draw, **({DEFAULT: draw[own]} if own in draw else {})} for number, draw in draws.items()
        }
    return found


def values(draws: Draws, method: str, name: str = "accuracy") -> list[float]:
    """One figure of a method on each draw that has it."""
    return [draw[method][name] for draw in draws.values() if name in draw.get(method, {})]


def gains(draws: Draws, method: str, other: str) -> list[float]:
    """How much better a method is than another, draw by draw; draws that lack one of them are left out."""
    return [
        draw[method]["accuracy"] - draw[other]["accuracy"]
        for draw in draws.values()
        if method in draw and other in draw
    ]


def mean_gains(cells: Mapping[str, Draws], method: str, other: str) -> dict[str, float]:
    """The mean gain in each cell where both were measured on a draw."""
    found = {name: gains(draws, method, other) for name, draws in cells.items()}
    return {name: mean(of_cell) for name, of_cell in found.items() if of_cell}


def shared_draws(draws: Draws, among: Sequence[str]) -> list[str]:
    """The numbers of the draws that all of the methods have which have one at all."""
    measured = [name for name in among if values(draws, name)]
    return [number for number, draw in draws.items() if measured and all(name in draw for name in measured)]


def regret(draws: Draws, method: str, among: Sequence[str]) -> float | None:
    """How much the best mean of a cell is above a method's mean: what choosing better would have gained.

    Args:
        among: The methods that might have been chosen, ``method`` itself as well; those without a draw are left out.

    Returns:
        At least 0, over ``shared_draws``; None where there is no such draw.
    """
    measured = [name for name in among if values(draws, name)]
    shared = [draws[number] for number in shared_draws(draws, among)]
    if method not in measured or not shared:
        return None
    means: dict[str, float] = {name: mean(draw[name]["accuracy"] for draw in shared) for name in measured}
    return max(means.values()) - means[method]


def share(cells: Mapping[str, Draws], method: str, other: str, name: str) -> float | None:
    """The sum of a figure of a method as a share of another's, over all draws that have both; None where none has.

    Seconds are not kept of all draws.
    """
    both = [
        draw
        for draws in cells.values()
        for draw in draws.values()
        if name in draw.get(method, {}) and name in draw.get(other, {})
    ]
    part: float = sum(draw[method][name] for draw in both)
    whole: float = sum(draw[other][name] for draw in both)
    return part / whole if whole else None
