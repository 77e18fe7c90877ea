"""Section 3.4: importance and metric of two bias terms against learning rate and epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beft.errors import InputError
from beft.names import known_name
from beft.studies.selection_analysis.cells import Cell, varying
from beft.studies.selection_analysis.gaps import GapPoint, Gaps
from beft.studies.style import (
    GREY,
    INK,
    look,
    method_name,
    metric_label,
    picture,
    plain,
    symbol,
)
from beft.tables import ScoreInterval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_ACROSS = 4
"""Up to so many groups stand side by side."""
_STYLES = ("-", "--", ":", "-.")
_AXES = {"learning_rate": "learning rate", "epochs": "epochs"}


def draw_extension(gaps: Gaps, path: Path, *, method: str = "projection_ratio", title: str | None = None) -> None:
    """Draw, for each dataset and base, the importance of both terms above and their metric below.

    Learning rate goes across, or epochs where the learning rate does not vary; where both vary, each number of epochs
    has its own kind of line. The area between the terms is the gap; what was trained beside them is grey.

    Args:
        gaps: Gaps along ``learning_rate``, ``epochs``, or both.
        path: The picture; its suffix (.png, .svg, .pdf) is its format.
        method: The importance method.

    Raises:
        InputError: The method is unknown, or neither learning rate nor epochs vary.
    """
    points = [one for one in gaps.points if one.method == known_name(method, gaps.overall, "importance method")]
    across = next((field for field in _AXES if len({getattr(one.cell, field) for one in points}) > 1), None)
    if across is None or across not in gaps.along:
        raise InputError("the extension figure needs points that differ in learning rate or epochs")
    groups: dict[Cell, list[GapPoint]] = {}
    for one in points:
        groups.setdefault(one.cell._replace(learning_rate=None, epochs=None), []).append(one)
    fields = varying(groups)
    taus = {trend.cell: trend.gap.value for trend in gaps.trends if trend.method == method}
    several = len({one.metric for one in points}) > 1
    columns = min(len(groups), _ACROSS)
    blocks = math.ceil(len(groups) / columns)
    with picture(path, max(2.5 * columns + 0.9, 5.2), 4.3 * blocks + 0.4, title) as figure:
        panels = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True)
        for axes in panels.flat:
            axes.set_axis_off()
        for at, (group, of) in enumerate(groups.items()):
            block, column = divmod(at, columns)
            upper, lower = panels[2 * block, column], panels[2 * block + 1, column]
            for axes, importance in ((upper, True), (lower, False)):
                axes.set_axis_on()
                plain(axes, grid="y")
                _lines(axes, gaps, of, across, importance=importance)
            upper.set_title(group.text(fields), loc="left", fontsize=10.5, weight="bold", color=INK)
            if group in taus:
                upper.annotate(
                    f"tau of the gaps {taus[group]:.2f}",
                    (0.03, 0.97),
                    xycoords="axes fraction",
                    va="top",
                    fontsize=8,
                    color=GREY,
                )
            lower.set_xlabel(_AXES[across], fontsize=9, color=INK)
            upper.tick_params(labelbottom=False)
            lower.tick_params(labelbottom=True)
            if column == 0:
                upper.set_ylabel(f"importance ({method_name(method).lower()})", fontsize=9, color=INK)
            if column == 0 or several:
                lower.set_ylabel(metric_label(of[0].metric), fontsize=9, color=INK)
        handles = _handles(gaps, points, across)
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=min(len(handles), 6),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )


def _lines(axes: "Axes", gaps: Gaps, points: Sequence[GapPoint], across: str, *, importance: bool) -> None:
    other = "epochs" if across == "learning_rate" else "learning_rate"
    lines = sorted({getattr(one.cell, other) for one in points}, key=lambda number: number or 0)
    for at, line in enumerate(lines):
        of = sorted(
            (one for one in points if getattr(one.cell, other) == line), key=lambda one: getattr(one.cell, across) or 0
        )
        x = [getattr(one.cell, across) for one in of]
        # Intervals and the area between the terms would hide each other where there are several lines.
        draw = _Line(axes, _STYLES[at % len(_STYLES)], 1 if importance else 100, intervals=len(lines) == 1)
        heights = []
        for term in (gaps.first, gaps.second):
            found = [one.importance[term] if importance else one.value[term] for one in of]
            heights.append(draw.through(x, found, *look(term, [gaps.first, gaps.second])))
        if len(lines) == 1:
            axes.fill_between(x, heights[0], heights[1], color=look(gaps.first)[0], alpha=0.07, linewidth=0)
        for name in () if importance else sorted({name for one in of for name in one.beside}):
            known = [(place, one.beside[name]) for place, one in zip(x, of, strict=True) if name in one.beside]
            draw.through([place for place, _ in known], [value for _, value in known], GREY, "D")
    if across == "learning_rate":
        axes.set_xscale("log")
    values = sorted({getattr(one.cell, across) for one in points})
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


@dataclass(frozen=True)
class _Line:
    """How the lines of one setting are drawn: their style, and what values are multiplied with."""

    axes: "Axes"
    style: str
    by: float
    intervals: bool

    def through(self, x: Sequence[float], found: Sequence[ScoreInterval], colour: str, mark: str) -> list[float]:
        """Draw a line through estimates; returns its heights."""
        heights = [self.by * one.value for one in found]
        self.axes.plot(
            x, heights, color=colour, linestyle=self.style, marker=mark, markersize=4.5, linewidth=1.5, zorder=3
        )
        for place, one in zip(x, found, strict=True) if self.intervals else ():
            if one.low is not None and one.high is not None:
                ends = [self.by * one.low, self.by * one.high]
                self.axes.plot([place, place], ends, color=colour, linewidth=1.1, alpha=0.5, zorder=2)
        return heights


def _handles(gaps: Gaps, points: Sequence[GapPoint], across: str) -> list["Line2D"]:
    from matplotlib.lines import Line2D

    handles: list[Line2D] = []
    for term in (gaps.first, gaps.second):
        colour, mark = look(term, [gaps.first, gaps.second])
        handles.append(Line2D([], [], color=colour, marker=mark, label=f"{symbol(term)}  {term.replace('_', ' ')}"))
    for name in sorted({name for one in points for name in one.beside}):
        handles.append(Line2D([], [], color=GREY, marker="D", markersize=5, label=name.replace("_", " ")))
    other = "epochs" if across == "learning_rate" else "learning_rate"
    lines = sorted({getattr(one.cell, other) for one in points}, key=lambda number: number or 0)
    if len(lines) > 1:
        handles += [
            Line2D(
                [],
                [],
                color=INK,
                linestyle=_STYLES[at % len(_STYLES)],
                linewidth=1.3,
                label=f"{line} epochs" if other == "epochs" else f"learning rate {line:g}",
            )
            for at, line in enumerate(lines)
        ]
    return handles
