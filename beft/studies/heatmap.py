"""The importance tables as a picture: bias terms by layers, the methods side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beft.errors import InputError
from beft.files import write_bytes
from beft.importance.result import Importance, in_order
from beft.importance.selection import Selection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYMBOLS = {
    "query": "$b_q$",
    "key": "$b_k$",
    "value": "$b_v$",
    "attention_output": "$b_{m1}$",
    "intermediate": "$b_{m2}$",
    "output": "$b_{m3}$",
    "attention_norm": "$b_{LN1}$",
    "output_norm": "$b_{LN2}$",
}
"""The symbols that the paper gives the bias terms."""

METHOD_NAMES = {
    "projection_ratio": "Projection ratio",
    "magnitude": "Magnitude",
    "magnitude_l2": r"Magnitude $\ell_2$",
    "fisher": "Fisher",
}
"""The names of the importance methods in pictures; another method is drawn under its own name."""

_FORMULAS = {
    "projection_ratio": r"$1 - b\cdot b^{\prime}\,/\,\max(\|b\|^2, \|b^{\prime}\|^2)$",
    "magnitude": r"mean $|b^{\prime} - b|$",
    "magnitude_l2": r"root mean square of $b^{\prime} - b$",
    "fisher": r"mean $(\partial\,\log p\,/\,\partial b)^2$",
}
_FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}

_INK, _GREY, _FAINT, _BLANK, _ACCENT = "#1d2433", "#6b7280", "#c3c8d1", "#f1f2f5", "#c2410c"
_COLOURS = ("#f7fafc", "#d7e6f0", "#a3c7de", "#5f9fc6", "#2a72a8", "#124a7d", "#0a2c52")
_DASH = "\N{EN DASH}"
_NUMBERED = 12
"""Up to so many layers each cell shows its number."""
_ACROSS = 3
"""Up to so many panels stand in one row; more stand in two."""

_ROW, _GAP, _MEAN = 0.34, 0.14, 0.62
"""Inches: the height of a row, the space between blocks of cells, the width of the column of means."""


def draw_heatmap(
    tables: Iterable[Importance],
    path: Path,
    *,
    selection: Selection | None = None,
    inert: Mapping[str, bool] | None = None,
    title: str | None = None,
) -> None:
    """Draw importance tables side by side and write the picture; the same tables give the same bytes.

    More than three stand in two rows. Each method has its own scale of colours, from 0 to its highest score that is
    not inert. Inert terms are hatched, cells without a direction hold a dash, the target term is outlined, and a term
    that the model has once, outside of its layers, has a mean only.

    Args:
        tables: One or more tables over the same terms.
        path: Where the picture goes; its suffix (.png, .svg or .pdf) is its format.
        selection: Marks the target term, the candidates and the method that chose.
        inert: Whether each term is inert; terms not named are not.
        title: A line above the picture.

    Raises:
        InputError: There is no table, the tables have different terms or layers, or the suffix is unknown.
    """
    import matplotlib
    from matplotlib import style

    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"a heat map is written as {', '.join(_FORMATS)}, not as {path.name!r}")
    grid = _Grid.of(list(tables), inert or {})
    # No date, no random identifier, and no setting of the user's decides a byte.
    dated = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
    buffer = BytesIO()
    with style.context("default"), matplotlib.rc_context({"svg.hashsalt": "beft", "mathtext.fontset": "dejavusans"}):
        figure = _figure(grid, selection, title)
        figure.savefig(buffer, format=kind, dpi=160, metadata=dated[kind])
    write_bytes(path, buffer.getvalue())


@dataclass(frozen=True)
class _Grid:
    """What the panels share: rows, columns, and which rows are inert or outside of the layers."""

    tables: list[Importance]
    terms: list[str]
    layers: int
    inert: Mapping[str, bool]
    stacks: Mapping[str, int]

    @classmethod
    def of(cls, tables: list[Importance], inert: Mapping[str, bool]) -> "_Grid":
        if not tables:
            raise InputError("there is no importance table to draw")
        shape = {term: len(layers) for term, layers in tables[0].scores.items()}
        for table in tables:
            same = {term: len(layers) for term, layers in table.scores.items()} == shape
            if not same or table.stacks != tables[0].stacks:
                raise InputError(f"{table.method} and {tables[0].method} have different terms or layers")
        layers = max(shape.values())
        terms = in_order(shape)
        return cls(tables, sorted(terms, key=lambda term: shape[term] < layers), layers, inert, tables[0].stacks)

    def top(self, term: str) -> float:
        """The upper edge of a term's row, in rows; those outside of the layers stand a little below."""
        return self.terms.index(term) + (0.0 if self.whole(term) else _GAP / _ROW)

    def whole(self, term: str) -> bool:
        """Whether the term has a score in each layer."""
        return len(self.tables[0].scores[term]) == self.layers

    @property
    def height(self) -> float:
        """Height of the cells in rows."""
        return self.top(self.terms[-1]) + 1

    @property
    def cell(self) -> float:
        """Width of a layer's cell in inches."""
        return 0.46 if self.layers <= 6 else 0.37 if self.layers <= _NUMBERED else max(0.05, 3.8 / self.layers)

    @property
    def blocks(self) -> list[tuple[str, int, int]]:
        """Name, first layer and number of layers of each block of cells: one, or the encoder's and the decoder's."""
        found, first = [], 0
        for name, layers in self.stacks.items() or [("", self.layers)]:
            found.append((name, first, layers))
            first += layers
        return found

    def left(self, layer: int) -> float:
        """The left edge of a layer's cell in inches."""
        before = sum(1 for _, first, _ in self.blocks if 0 < first <= layer)
        return layer * self.cell + before * _GAP

    @property
    def mean_left(self) -> float:
        """The left edge of the column of means in inches."""
        return self.left(self.layers - 1) + self.cell + _GAP

    @property
    def width(self) -> float:
        """Width of a panel in inches."""
        return self.mean_left + _MEAN


def _figure(grid: _Grid, selection: Selection | None, title: str | None) -> "Figure":
    """Lay the panels out, in inches: names of the terms, the panels of the methods, and the key below."""
    from matplotlib.figure import Figure

    names, between, right = 1.75, 0.3, 0.15
    above, head, below, scale = (0.55 if title else 0.2), 0.65, 0.42, 0.58
    count = len(grid.tables)
    across = count if count <= _ACROSS else math.ceil(count / 2)
    block = head + grid.height * _ROW + scale
    width = max(names + across * grid.width + (across - 1) * between + right, 6.4)
    height = above + math.ceil(count / across) * block + below
    figure = Figure(figsize=(width, height), facecolor="white")
    if title:
        figure.text(0.2 / width, 1 - 0.32 / height, title, fontsize=13, weight="bold", color=_INK, va="center")
    for at, table in enumerate(grid.tables):
        down, place = divmod(at, across)
        left = names + place * (grid.width + between)
        bottom = height - above - down * block - head - grid.height * _ROW
        axes = figure.add_axes((left / width, bottom / height, grid.width / width, grid.height * _ROW / height))
        axes.set(xlim=(0, grid.width), ylim=(grid.height, 0))
        axes.set_axis_off()
        if place == 0:
            _name_rows(axes, grid, selection)
        _panel(axes, grid, table, selection)
    key = figure.add_axes((0, 0, 1, 0.42 / height))
    key.set(xlim=(0, width), ylim=(0, 0.42))
    key.set_axis_off()
    _key(key, grid, selection)
    return figure


def _name_rows(axes: "Axes", grid: _Grid, selection: Selection | None) -> None:
    candidates = _candidates(selection, grid.terms)
    axes.text(-0.08, -0.32, "layer", ha="right", va="center", color=_GREY, size=7.5)
    for term in grid.terms:
        target = selection is not None and term == selection.term
        colour = _ACCENT if target else _INK if term in candidates else _GREY
        middle = grid.top(term) + 0.5
        weight = "bold" if target else "normal"
        axes.text(-0.52, middle, term.replace("_", " "), ha="right", va="center", color=colour, weight=weight, size=9)
        axes.text(-0.08, middle, SYMBOLS.get(term, ""), ha="right", va="center", color=colour, size=9)


def _panel(axes: "Axes", grid: _Grid, table: Importance, selection: Selection | None) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("beft", _COLOURS)
    highest = _highest(grid, table)
    exponent = _exponent(highest)
    mean_left = grid.mean_left
    means = table.mean
    for term in grid.terms:
        row = _Row(axes, grid.top(term), grid.inert.get(term, False), highest, 10.0**exponent, colours)
        if grid.whole(term):
            for layer, score in enumerate(table.scores[term]):
                row.cell(grid.left(layer), grid.cell, score, size=7.0 if grid.layers <= _NUMBERED else None)
        else:
            axes.text(
                (mean_left - _GAP) / 2,
                row.top + 0.5,
                "one vector, outside of the layers",
                ha="center",
                va="center",
                size=6.5,
                color=_FAINT,
                style="italic",
            )
        row.cell(mean_left, _MEAN, means[term], size=8.5, digits=3)
    _head(axes, grid, table, exponent, chooses=selection is not None and selection.method == table.method)
    _scale(axes, grid, colours, highest / 10.0**exponent)
    if selection is not None and selection.term in grid.terms:
        _outline(axes, grid, selection.term, strong=selection.method == table.method)


@dataclass(frozen=True)
class _Row:
    """Draws the cells of one term."""

    axes: Any
    top: float
    inert: bool
    highest: float
    unit: float
    colours: Any

    def cell(self, left: float, width: float, score: float | None, *, size: float | None, digits: int = 2) -> None:
        from matplotlib.patches import Rectangle

        shade = min(score / self.highest, 1.0) if score is not None and self.highest > 0 else 0.0
        plain = score is not None and not self.inert
        face = self.colours(shade) if plain else _BLANK
        # Hatched cells keep their grey lines; the white edge that separates cells is drawn over them.
        if self.inert:
            hatched = Rectangle(
                (left, self.top), width, 1, facecolor=face, edgecolor=_FAINT, hatch="//////", linewidth=0
            )
            self.axes.add_artist(hatched)
        edge = Rectangle(
            (left, self.top), width, 1, facecolor="none" if self.inert else face, edgecolor="white", linewidth=1.1
        )
        self.axes.add_artist(edge)
        if score is None:
            text, colour = _DASH, _GREY
        elif size is None:
            return
        else:
            text = f"{score / self.unit:.{digits}f}"
            colour = _GREY if self.inert else "white" if shade > 0.5 else _INK
        box = {"boxstyle": "round,pad=0.12", "facecolor": _BLANK, "edgecolor": "none"} if self.inert else None
        self.axes.text(
            left + width / 2,
            self.top + 0.52,
            text,
            ha="center",
            va="center",
            size=size or 7.0,
            color=colour,
            bbox=box,
        )


def _head(axes: "Axes", grid: _Grid, table: Importance, exponent: int, *, chooses: bool) -> None:
    """The method's name and formula, and the numbers of the layers."""
    name = METHOD_NAMES.get(table.method, table.method.replace("_", " ").capitalize())
    title = axes.text(0, -1.72, name, size=11, weight="bold", color=_INK, va="center")
    if chooses:
        axes.annotate(
            "  chooses",
            (1, 0.5),
            xycoords=title,
            va="center",
            size=8.5,
            weight="bold",
            color=_ACCENT,
            annotation_clip=False,
        )
    formula = _FORMULAS.get(table.method, "")
    if exponent:
        formula += rf"   in units of $10^{{{exponent}}}$"
    axes.text(0, -1.08, formula.strip(), size=7.5, color=_GREY, va="center")
    step = 1 if grid.layers <= _NUMBERED else math.ceil(grid.layers / 12)
    for stack, first, layers in grid.blocks:
        for layer in range(first, first + layers, step):
            middle = grid.left(layer) + grid.cell / 2
            axes.text(middle, -0.32, str(layer - first + 1), size=7, color=_GREY, ha="center", va="center")
        axes.text(grid.left(first), -0.68, stack, size=6.5, color=_GREY, ha="left", va="center", style="italic")
    axes.text(grid.mean_left + _MEAN / 2, -0.32, "mean", size=7.5, color=_INK, ha="center", va="center")


def _scale(axes: "Axes", grid: _Grid, colours: Any, highest: float) -> None:
    """A thin bar of the colours below the panel."""
    from matplotlib.patches import Rectangle

    steps, width = 32, min(1.6, grid.layers * grid.cell)
    top = grid.height + 0.35
    for step in range(steps):
        left = width * step / steps
        colour = colours(step / (steps - 1))
        bar = Rectangle((left, top), width / steps, 0.28, facecolor=colour, edgecolor=colour, linewidth=0.3)
        axes.add_artist(bar).set_clip_on(False)
    axes.text(0, top + 0.66, "0", size=6.5, color=_GREY, ha="left", va="center")
    axes.text(width, top + 0.66, f"{highest:.2f}", size=6.5, color=_GREY, ha="right", va="center")


def _outline(axes: "Axes", grid: _Grid, term: str, *, strong: bool) -> None:
    from matplotlib.patches import Rectangle

    top = grid.top(term)
    blocks = [(grid.left(first), layers * grid.cell) for _, first, layers in grid.blocks] if grid.whole(term) else []
    for left, width in [*blocks, (grid.mean_left, _MEAN)]:
        frame = Rectangle(
            (left, top), width, 1, facecolor="none", edgecolor=_ACCENT, linewidth=2.0 if strong else 0.9, zorder=5
        )
        axes.add_artist(frame).set_clip_on(False)


def _key(axes: "Axes", grid: _Grid, selection: Selection | None) -> None:
    """What the marks mean, of those that are in the picture."""
    from matplotlib.patches import Rectangle

    entries: list[tuple[dict[str, Any], str, str]] = []
    if selection is not None:
        entries.append(({"facecolor": "white", "edgecolor": _ACCENT, "linewidth": 1.8}, "", "target term"))
    if any(grid.inert.get(term, False) for term in grid.terms):
        hatch = {"facecolor": _BLANK, "edgecolor": _FAINT, "hatch": "//////", "linewidth": 0}
        entries.append((hatch, "", "inert: shifting it changes no logit"))
    if any(score is None for table in grid.tables for layers in table.scores.values() for score in layers):
        entries.append(({"facecolor": _BLANK, "linewidth": 0}, _DASH, "no direction: zero before training"))
    left = 1.75
    for look, mark, meaning in entries:
        axes.add_artist(Rectangle((left, 0.17), 0.3, 0.17, **look))
        axes.text(left + 0.15, 0.26, mark, size=8, color=_GREY, ha="center", va="center")
        axes.text(left + 0.38, 0.255, meaning, size=7.5, color=_GREY, va="center")
        left += 0.38 + 0.062 * len(meaning) + 0.3


def _candidates(selection: Selection | None, terms: Sequence[str]) -> set[str]:
    if selection is None:
        return set(terms)
    return {term for term, _ in selection.ranking} | set(selection.inert)


def _highest(grid: _Grid, table: Importance) -> float:
    """The highest score of the terms that are not inert."""
    return max(
        (
            score
            for term, layers in table.scores.items()
            if not grid.inert.get(term, False)
            for score in layers
            if score is not None
        ),
        default=0.0,
    )


def _exponent(highest: float) -> int:
    """The power of ten that the numbers are shown in: 0 where they are readable as they are."""
    if highest <= 0 or 0.05 <= highest < 100:
        return 0
    return math.floor(math.log10(highest))
