"""The regret of transferred selections as a matrix: rows select, columns are tuned."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beft.names import known_name
from beft.studies.selection_analysis.transfer import MethodTransfer, Transfer
from beft.studies.style import (
    ACCENT,
    BLANK,
    GREY,
    INK,
    in_methods_order,
    method_name,
    picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

_COLOURS = ("#f7fafc", "#d7e6f0", "#a3c7de", "#5f9fc6", "#2a72a8", "#124a7d", "#0a2c52")
_CELL, _ACROSS = 0.62, 2


def draw_transfer(
    transferred: Transfer, path: Path, *, methods: Sequence[str] | None = None, title: str | None = None
) -> None:
    """Draw the matrix of one or more methods; the diagonal, where the target's own probe selects, is outlined.

    All matrices have the same colours, from no regret to the largest.

    Args:
        path: The picture; its suffix (.png, .svg, .pdf) is its format.
        methods: The methods; None: all.

    Raises:
        InputError: A method is unknown.
    """
    from matplotlib.colors import LinearSegmentedColormap

    names = [
        known_name(method, transferred.methods, "importance method")
        for method in methods or in_methods_order(transferred.methods)
    ]
    values = [
        cell.value for name in names for row in transferred.methods[name].matrix for cell in row if cell is not None
    ]
    highest = max([100 * max(values, default=0.0), 1e-9])
    colours = LinearSegmentedColormap.from_list("beft", _COLOURS)
    count = len(transferred.places)
    across = min(len(names), _ACROSS)
    down = math.ceil(len(names) / across)
    longest = max(len(place) for place in transferred.places)
    side = count * _CELL
    width = across * (side + 0.35) + 0.085 * longest + 0.9
    height = down * (side + 0.55 + 0.07 * longest) + 0.25
    with picture(path, max(width, 5.2), height, title) as figure:
        panels = figure.subplots(down, across, squeeze=False)
        for at, axes in enumerate(panels.flat):
            if at >= len(names):
                axes.set_axis_off()
                continue
            _matrix(
                axes,
                transferred,
                transferred.methods[names[at]],
                colours,
                highest,
                named=at % across == 0,
                last=at + across >= len(names),
            )
            axes.set_title(method_name(names[at]), loc="left", fontsize=11, weight="bold", color=INK)


def _matrix(
    axes: "Axes",
    transferred: Transfer,
    found: MethodTransfer,
    colours: "Colormap",
    highest: float,
    *,
    named: bool,
    last: bool,
) -> None:
    from matplotlib.patches import Rectangle

    count = len(transferred.places)
    for row, cells in enumerate(found.matrix):
        for column, cell in enumerate(cells):
            shade = 0.0 if cell is None else 100 * cell.value / highest
            face = BLANK if cell is None else colours(shade)
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
            text = "\N{EN DASH}" if cell is None else f"{100 * cell.value:.1f}"
            colour = GREY if cell is None else "white" if shade > 0.5 else INK
            axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", fontsize=8.5, color=colour)
    for place in range(count):
        axes.add_patch(
            Rectangle((place, place), 1, 1, facecolor="none", edgecolor=ACCENT, linewidth=1.5, zorder=3, clip_on=False)
        )
    axes.set(xlim=(0, count), ylim=(count, 0), aspect="equal")
    axes.set_xticks([place + 0.5 for place in range(count)], transferred.places, rotation=35, ha="right")
    axes.set_yticks([place + 0.5 for place in range(count)], transferred.places if named else [""] * count)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.spines[:].set_visible(False)
    if last:
        axes.set_xlabel("tuned on; regret in points", fontsize=8.5, color=GREY)
    if named:
        axes.set_ylabel("selected on", fontsize=8.5, color=GREY)
