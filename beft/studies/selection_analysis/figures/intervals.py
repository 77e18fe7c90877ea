"""One row a method: the mean over the cells with its interval, every cell faint behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beft.studies.selection_analysis.agreement import Agreement
from beft.studies.selection_analysis.regret import DEV, RANDOM, VALUE, Regret, scaled
from beft.studies.selection_analysis.stability import Stability
from beft.studies.style import (
    FAINT,
    GREY,
    INK,
    METHOD_COLOURS,
    in_methods_order,
    method_name,
    picture,
    plain,
)
from beft.tables import ScoreInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 0.42
"""Inches a row."""


def draw_regret(regret: Regret, path: Path, *, title: str | None = None) -> None:
    """Draw the regret of every way of choosing as bars, and how often it chooses the best term.

    Lines of comparison (best on dev, always value, random choice) are grey; each cell is a faint mark.

    Args:
        path: The picture; its suffix (.png, .svg, .pdf) is its format.
    """
    methods = in_methods_order(regret.overall)
    with picture(path, 8.6, _ROW * len(methods) + 1.05, title) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.4, 1))
        _name_rows(left, methods)
        for at, method in enumerate(methods):
            one = regret.overall[method]
            colour = _colour(method)
            left.barh(at, 100 * one.regret.value, height=0.6, color=colour, zorder=2)
            _cells(left, at, [100 * each.regret.value for each in regret.cells if each.method == method], INK)
            _interval(left, at, scaled(one.regret), INK)
            right.barh(at, 100 * one.best_chosen, height=0.6, color=colour, zorder=2)
            right.text(
                100 * one.best_chosen + 3, at, f"{100 * one.best_chosen:.0f}", va="center", fontsize=9, color=INK
            )
        left.set_xlim(left=-0.02 * left.get_xlim()[1])
        left.axvline(0, color=FAINT, linewidth=0.8, zorder=1)
        left.set_xlabel("regret, points: the best term minus the selected one", fontsize=9, color=INK)
        plain(right, grid="x")
        right.spines["left"].set_visible(False)
        right.tick_params(axis="y", length=0)
        right.set_xlim(0, 118)
        right.set_xticks([0, 50, 100])
        right.set_xlabel("best term selected, %", fontsize=9, color=INK)


def draw_stability(stability: Stability, path: Path, *, title: str | None = None) -> None:
    """Draw Kendall's tau between the rankings of every two seeds, method by method.

    Args:
        path: The picture; its suffix (.png, .svg, .pdf) is its format.
    """
    cells = {method: [one.tau.value for one in stability.cells if one.method == method] for method in stability.overall}
    _draw_taus(stability.overall, cells, path, title, ("Kendall's tau between seeds", "reversed", "the same ranking"))


def draw_agreement(agreement: Agreement, path: Path, *, title: str | None = None) -> None:
    """Draw Kendall's tau between each ranking and the measured accuracies, method by method.

    Args:
        path: The picture; its suffix (.png, .svg, .pdf) is its format.
    """
    cells = {method: [one.tau.value for one in agreement.cells if one.method == method] for method in agreement.overall}
    _draw_taus(
        agreement.overall,
        cells,
        path,
        title,
        ("Kendall's tau between importance and accuracy", "reversed", "orders as the accuracies"),
    )


def _draw_taus(
    overall: Mapping[str, ScoreInterval],
    cells: Mapping[str, Sequence[float]],
    path: Path,
    title: str | None,
    words: tuple[str, str, str],
) -> None:
    label, low, high = words
    methods = in_methods_order(overall)
    with picture(path, 7.4, _ROW * len(methods) + 1.1, title) as figure:
        axes = figure.subplots()
        _name_rows(axes, methods)
        axes.axvline(0, color=FAINT, linewidth=1.0, zorder=1)
        for at, method in enumerate(methods):
            colour, estimate = _colour(method), overall[method]
            _cells(axes, at, cells[method], colour)
            _interval(axes, at, estimate, colour)
            axes.plot(estimate.value, at, "o", color=colour, markersize=8, markeredgecolor="white", zorder=5)
        axes.set_xlim(-1.08, 1.08)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1], [f"-1\n{low}", "-0.5", "0\nunrelated", "0.5", f"1\n{high}"])
        axes.set_xlabel(label, fontsize=9, color=INK)


def _name_rows(axes: "Axes", methods: Sequence[str]) -> None:
    plain(axes, grid="x")
    axes.set_yticks(range(len(methods)), [method_name(method) for method in methods])
    axes.tick_params(axis="y", labelsize=9.5, labelcolor=INK, length=0)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def _cells(axes: "Axes", row: int, values: Sequence[float], colour: str) -> None:
    """A faint mark a cell, one below the other in the order of the cells, so that equal ones stay visible."""
    heights = [row + 0.4 * (place / max(len(values) - 1, 1) - 0.5) for place in range(len(values))]
    axes.plot(values, heights, "o", color=colour, markersize=3.2, alpha=0.3, markeredgewidth=0, zorder=3)


def _interval(axes: "Axes", row: int, estimate: ScoreInterval, colour: str) -> None:
    """The interval as a line, and the numbers at the right edge."""
    text = f"{estimate.value:.2f}"
    if estimate.low is not None and estimate.high is not None:
        axes.plot(
            [estimate.low, estimate.high], [row, row], color=colour, linewidth=1.8, solid_capstyle="round", zorder=4
        )
        text += f"  [{estimate.low:.2f}, {estimate.high:.2f}]"
    axes.annotate(
        text, (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", va="center",
        fontsize=8.5, color=INK, annotation_clip=False,
    )  # fmt: skip


def _colour(method: str) -> str:
    return FAINT if method in (RANDOM, VALUE, DEV) else METHOD_COLOURS.get(method, GREY)
