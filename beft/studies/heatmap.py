"""The importance tables as a picture: bias terms by layers, one panel for each method."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError
from beft.importance.result import Importance, numbers_of_layers, terms_in_order
from beft.importance.selection import Selection
from beft.studies.style import ACCENT, BLANK, FAINT, GREY, INK, SYMBOLS, method_name, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMULAS = {
    "projection_ratio": r"$1 - b\cdot b^{\prime}\,/\,\max(\|b\|^2, \|b^{\prime}\|^2)$",
    "magnitude": r"mean $|b^{\prime} - b|$",
    "magnitude_l2": r"root mean square of $b^{\prime} - b$",
    "fisher": r"mean $(\partial\,\log p\,/\,\partial b)^2$",
}
_COLOURS = ("#f7fafc", "#d7e6f0", "#a3c7de", "#5f9fc6", "#2a72a8", "#124a7d", "#0a2c52")
_DASH = "\N{EN DASH}"
_HATCH = "//////"
_MAX_NUMBERED = 12
"""Up to this number of layers, each cell shows its score."""
_MAX_ACROSS = 3
"""Up to this number of panels stand in one row; more stand in two."""
_MEAN = -1
"""The column of the means."""
_ROW, _GAP, _MEAN_WIDTH = 0.34, 0.14, 0.62
"""In inches: height of a row, space between blocks of cells, width of the column of means."""

Booleans = NDArray[np.bool_]


def draw_heatmap(
    tables: Iterable[Importance],
    path: Path,
    *,
    selection: Selection | None = None,
    inert: Mapping[str, bool] | None = None,
    title: str | None = None,
) -> None:
    """Draw importance tables side by side and write the picture; the same tables give the same bytes.

    More than three tables stand in two rows. Each method has its own scale of colours, from 0 to its highest score that
    is not inert. Inert terms are hatched, cells without a direction show a dash, the target term is outlined. A term
    that the model has once, outside of its layers, has a mean only.

    Args:
        tables: One or more tables over the same terms.
        path: Where the picture is written; its suffix (.png, .svg or .pdf) is its format.
        selection: Marks the target term, the candidates and the method that chose.
        inert: Whether each term is inert; terms not named are not.
        title: A line above the picture.

    Raises:
        InputError: There is no table, the tables have different terms or layers, or the suffix is unknown.
    """
    grid = _Grid.of(list(tables), inert or {})
    down = 1 if len(grid.tables) <= _MAX_ACROSS else 2
    across = math.ceil(len(grid.tables) / down)
    width = max(2.0 + across * (sum(grid.widths) + 0.3), 5.6)
    height = 0.35 + down * (sum(grid.heights) + 1.45)
    with picture(path, width, height, title) as figure:
        panels = figure.subplots(down, across, squeeze=False, gridspec_kw={"wspace": 0.1})
        for place, axes in enumerate(panels.flat):
            if place < len(grid.tables):
                _draw_panel(axes, grid, grid.tables[place], selection)
                _label_rows(axes, grid, selection, named=place % across == 0)
            else:
                axes.set_axis_off()
        figure.legend(
            handles=_legend(grid, selection),
            loc="outside lower left",
            ncols=3,
            frameon=False,
            fontsize=7.5,
            labelcolor=GREY,
        )


@dataclass(frozen=True)
class _Grid:
    """What the panels share.

    Attributes:
        rows: The term of each row; `None` is the space above the terms outside of the layers.
        columns: The layer of each column, the column of the means last; `None` is a space between blocks of layers.
        numbers: The number of each layer, from 1 on in each stack.
    """

    tables: list[Importance]
    rows: list[str | None]
    columns: list[int | None]
    numbers: tuple[int, ...]
    inert: Mapping[str, bool]

    @classmethod
    def of(cls, tables: list[Importance], inert: Mapping[str, bool]) -> "_Grid":
        if not tables:
            raise InputError("there is no importance table to draw")
        shape = {term: len(layers) for term, layers in tables[0].scores.items()}
        for table in tables:
            same = {term: len(layers) for term, layers in table.scores.items()} == shape
            if not same or table.stacks != tables[0].stacks:
                raise InputError(f"{table.method} and {tables[0].method} have different terms or layers")
        numbers = numbers_of_layers(max(shape.values()), tables[0].stacks)
        columns: list[int | None] = []
        for layer, number in enumerate(numbers):
            columns += [None, layer] if number == 1 and layer else [layer]
        inside: list[str | None] = [term for term in terms_in_order(shape) if shape[term] == len(numbers)]
        outside = [term for term in terms_in_order(shape) if shape[term] < len(numbers)]
        rows = [*inside, *([None] if outside else []), *outside]
        return cls(tables, rows, [*columns, None, _MEAN], numbers, inert)

    @property
    def widths(self) -> list[float]:
        """The width of each column in inches."""
        layers = len(self.numbers)
        cell = 0.46 if layers <= 6 else 0.37 if layers <= _MAX_NUMBERED else max(0.05, 3.8 / layers)
        return [_GAP if column is None else _MEAN_WIDTH if column == _MEAN else cell for column in self.columns]

    @property
    def heights(self) -> list[float]:
        """The height of each row in inches."""
        return [_GAP if row is None else _ROW for row in self.rows]

    def scores(self, table: Importance) -> tuple[NDArray[np.float64], Booleans]:
        """The scores [rows, columns], NaN where there is none; and which cells the table has [rows, columns]."""
        present = np.array([[self._has(row, column) for column in self.columns] for row in self.rows])
        scores = np.full(present.shape, np.nan)
        for row, column in np.argwhere(present):
            term, layer = str(self.rows[row]), self.columns[column]
            score = table.mean[term] if layer == _MEAN else table.scores[term][layer or 0]
            scores[row, column] = np.nan if score is None else score
        return scores, present

    def _has(self, row: str | None, column: int | None) -> bool:
        if row is None or column is None:
            return False
        return column == _MEAN or len(self.tables[0].scores[row]) == len(self.numbers)


def _draw_panel(axes: "Axes", grid: _Grid, table: Importance, selection: Selection | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    scores, present = grid.scores(table)
    inert = present & np.array([[grid.inert.get(row or "", False)] for row in grid.rows])
    shown = present & ~inert & ~np.isnan(scores)
    highest = float(scores[shown].max(initial=0.0))
    exponent = 0 if highest <= 0 or 0.05 <= highest < 100 else math.floor(math.log10(highest))
    scores /= 10.0**exponent
    x, y = (np.cumsum([0.0, *sizes]) for sizes in (grid.widths, grid.heights))
    blank = ListedColormap([BLANK])
    for cells, hatch in ((present & ~inert, None), (inert, _HATCH)):
        if cells.any():
            plain = np.ma.masked_array(np.zeros(cells.shape), ~cells)
            axes.pcolor(x, y, plain, cmap=blank, hatch=hatch, edgecolors=FAINT, linewidth=0)
    top = highest / 10.0**exponent or 1.0
    colours = LinearSegmentedColormap.from_list("beft", _COLOURS)
    scored = np.ma.masked_array(scores, ~shown)
    mesh = axes.pcolormesh(x, y, scored, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=1.1)
    for row, column in np.argwhere(present):
        mean, score = grid.columns[column] == _MEAN, scores[row, column]
        if mean or len(grid.numbers) <= _MAX_NUMBERED or math.isnan(score):
            middle = (x[column] + x[column + 1]) / 2, (y[row] + y[row + 1]) / 2
            _write_score(axes, middle, score, mean=mean, dark=score > top / 2, inert=inert[row, column])
    axes.set(xlim=(0, float(x[-1])), ylim=(float(y[-1]), 0))
    _label_columns(axes, grid, table, exponent)
    scale = axes.figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.4, aspect=15, pad=0.03, anchor=(0, 1))
    scale.set_ticks([0, top], labels=["0", f"{top:.2f}"])
    scale.ax.tick_params(length=0, labelsize=6.5, labelcolor=GREY)
    scale.outline.set_visible(False)
    if selection is not None and selection.term in grid.rows:
        chooses = selection.method == table.method
        _outline(axes, x, y, present, grid.rows.index(selection.term), width=2.0 if chooses else 0.9)
        if chooses:
            axes.set_title("chooses", loc="right", size=8.5, weight="bold", color=ACCENT)


def _write_score(
    axes: "Axes", middle: tuple[float, float], score: float, *, mean: bool, dark: bool, inert: bool
) -> None:
    """Write the score of a cell; a dash where there is none."""
    known = not math.isnan(score)
    colour = GREY if inert or not known else "white" if dark else INK
    box = {"boxstyle": "round,pad=0.12", "facecolor": BLANK, "edgecolor": "none"} if inert else None
    text = f"{score:.{3 if mean else 2}f}" if known else _DASH
    axes.text(*middle, text, ha="center", va="center", size=8.5 if mean else 7.0, color=colour, bbox=box)


def _label_columns(axes: "Axes", grid: _Grid, table: Importance, exponent: int) -> None:
    """Write the method's name and formula, and the numbers of the layers."""
    axes.set_title(method_name(table.method), loc="left", size=11, weight="bold", color=INK)
    unit = rf"   in units of $10^{{{exponent}}}$" if exponent else ""
    axes.set_xlabel((_FORMULAS.get(table.method, "") + unit).strip(), loc="left", size=7.5, color=GREY)
    names = dict(zip((layer for layer, number in enumerate(grid.numbers) if number == 1), table.stacks, strict=False))
    step = 1 if len(grid.numbers) <= _MAX_NUMBERED else math.ceil(len(grid.numbers) / 12)
    ticks = []
    for left, width, column in zip(np.cumsum([0.0, *grid.widths]), grid.widths, grid.columns, strict=False):
        if column == _MEAN:
            ticks.append((left + width / 2, "mean"))
        elif column is not None and (grid.numbers[column] - 1) % step == 0:
            ticks.append((left + width / 2, f"{names.get(column, '')}\n{grid.numbers[column]}".strip()))
    axes.set_xticks(*(list(part) for part in zip(*ticks, strict=True)))
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7, labelcolor=GREY)
    axes.spines[:].set_visible(False)


def _label_rows(axes: "Axes", grid: _Grid, selection: Selection | None, *, named: bool) -> None:
    """Write the terms and their symbols left of a panel; and what a row without layers is."""
    candidates = set(grid.rows) if selection is None else {*dict(selection.ranking), *selection.inert}
    axes.set_yticks([])
    for bottom, row in zip(np.cumsum(grid.heights), grid.rows, strict=True):
        if row is None:
            continue
        middle = bottom - _ROW / 2
        if len(grid.tables[0].scores[row]) < len(grid.numbers):
            axes.text(0.02, middle, "one vector", va="center", size=6.5, color=GREY, style="italic")
        if named:
            target = selection is not None and row == selection.term
            colour = ACCENT if target else INK if row in candidates else GREY
            weight = "bold" if target else "normal"
            for text, distance in ((row.replace("_", " "), 37), (SYMBOLS.get(row, ""), 6)):
                place = axes.annotate(text, (0, middle), (-distance, 0), textcoords="offset points", size=9)
                place.set(ha="right", va="center", weight=weight, color=colour)
    if named:
        axes.annotate("layer", (0, 0), (-6, 4), textcoords="offset points", ha="right", size=7, color=GREY)


def _outline(axes: "Axes", x: Any, y: Any, present: Booleans, row: int, *, width: float) -> None:
    """Draw a frame around each block of cells of a row."""
    from matplotlib.patches import Rectangle

    edges = np.flatnonzero(np.diff(np.concatenate([[False], present[row], [False]]).astype(int)))
    for first, last in edges.reshape(-1, 2):
        frame = Rectangle((x[first], y[row]), x[last] - x[first], y[row + 1] - y[row], fill=False, clip_on=False)
        frame.set(edgecolor=ACCENT, linewidth=width, zorder=5)
        axes.add_patch(frame)


def _legend(grid: _Grid, selection: Selection | None) -> list[Any]:
    """The marks that are in the picture, with their meaning."""
    from matplotlib.patches import Patch

    marks = []
    if selection is not None:
        marks.append(Patch(facecolor="white", edgecolor=ACCENT, linewidth=1.8, label="target term"))
    if any(grid.inert.get(row or "", False) for row in grid.rows):
        marks.append(
            Patch(
                facecolor=BLANK, edgecolor=FAINT, hatch=_HATCH, linewidth=0, label="inert: shifting it changes no logit"
            )
        )
    if any(score is None for table in grid.tables for layers in table.scores.values() for score in layers):
        marks.append(Patch(facecolor=BLANK, label=f"{_DASH} no direction: zero before training"))
    return marks
