"""The figures of a reproduction, as PNG and SVG; the same numbers give the same bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beft.studies.published.table import Published
from beft.studies.style import picture
from tasks.reporting.formatting import title
from tasks.reproduction.cells import CellKey, Cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (
    "#1b6ca8",
    "#d1651f",
    "#3c8d40",
    "#8e44ad",
    "#7f7f7f",
    "#b5892b",
    "#c0392b",
    "#16a085",
    "#2c3e50",
    "#d35d8f",
)


def draw_scores(cells: Cells, published: Published, folder: Path) -> None:
    """Every method on every dataset with its interval, a panel a base and regime; published ones are hollow."""
    outline = cells.outline
    panels = [
        (base, regime, setting)
        for base in outline.bases
        for regime in outline.regimes
        for setting in cells.settings
        if any(place.base == base and place.regime == regime for place in cells.measured)
    ]
    height = 0.9 + sum(0.24 * len(outline.methods) + 0.2 for _ in outline.datasets)
    for kind in ("png", "svg"):
        with picture(folder / f"figure.{kind}", 5.2 * len(panels), max(2.4, height)) as figure:
            _draw_panels(figure, cells, published, panels)


def _draw_panels(
    figure: "Figure",
    cells: Cells,
    published: Published,
    panels: Sequence[tuple[str, str, tuple[float | None, int | None]]],
) -> None:
    outline = cells.outline
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (base, regime, (rate, epochs)) in zip(grid, panels, strict=True):
        ticks: dict[float, str] = {}
        for at, dataset in enumerate(outline.datasets):
            for number, method in enumerate(outline.methods):
                y = at * (len(outline.methods) + 1) + number
                colour = _COLOURS[number % len(_COLOURS)]
                cell = cells.at(CellKey(base, dataset, regime, method, rate, epochs))
                ticks[y] = f"{dataset}  {title(method)}"
                if cell.records:
                    found = cell.estimate(cells.metrics[dataset])
                    if found.low is not None and found.high is not None:
                        axes.plot([100 * found.low, 100 * found.high], [y, y], color=colour, linewidth=3, alpha=0.4)
                    axes.plot(100 * found.value, y, "o", color=colour)
                for score in published.scores:
                    if (score.dataset, score.regime, score.method) == (dataset, regime, method):
                        axes.plot(100 * score.value, y, "D", color=colour, fillstyle="none", markersize=5)
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.set_title("  ".join([base, regime, *_setting(rate, epochs)]), fontsize=9)
        axes.set_xlabel("test metric, %  (hollow: published, of other models)", fontsize=8)
        axes.grid(axis="x", alpha=0.3)
    grid[0].invert_yaxis()


def _setting(rate: float | None, epochs: int | None) -> list[str]:
    return [*([] if rate is None else [f"lr {rate:g}"]), *([] if epochs is None else [f"{epochs} epochs"])]
