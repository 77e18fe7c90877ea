"""Figures 1 and 4: the importance ranking of the bias terms against what they reach, method beside method."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Cell, varying
from beft.studies.selection_analysis.ranks import Ranks, TermRank
from beft.studies.style import (
    ACCENT,
    BLANK,
    FAINT,
    GREY,
    INK,
    in_methods_order,
    look,
    method_name,
    metric_label,
    picture,
    plain,
    symbol,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_SIZES = (34.0, 58.0, 88.0, 124.0)
"""Areas of the marks, from the smallest regime to the largest."""


def draw_figure1(ranks: Ranks, path: Path, *, title: str | None = None) -> None:
    """Draw one cell: a panel a method, the metric across, the rank upwards, each seed faint behind the mean.

    Where a method ranks well, the terms rise to the right. The term that a method chooses in most seeds is ringed.
    Inert terms have no rank: they stand below the others.

    Args:
        ranks: Ranks of one cell.
        path: The picture; its suffix (.png, .svg, .pdf) is its format.

    Raises:
        InputError: There are several cells, or no term was trained.
    """
    cells = {one.cell for one in ranks.terms}
    if len(cells) != 1:
        raise InputError(f"figure 1 shows one dataset and regime, not {len(cells)}; figure 4 shows several")
    methods = _drawn_methods(ranks)
    with picture(path, max(2.35 * len(methods) + 0.9, 6.4), 3.7, title) as figure:
        panels = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
        for at, (axes, method) in enumerate(zip(panels, methods, strict=True)):
            terms = [one for one in ranks.terms if one.method == method]
            _ranks_axis(axes, terms, first=at == 0)
            _method_title(axes, method)
            _seeds_and_means(axes, terms)
            axes.set_xlabel(metric_label(terms[0].metric), fontsize=8.5, color=INK)
            axes.margins(x=0.16)
        figure.legend(
            handles=_marks(ranks), loc="outside lower left", ncols=3, frameon=False, fontsize=8.5, labelcolor=GREY
        )


def draw_figure4(ranks: Ranks, path: Path, *, title: str | None = None) -> None:
    """Draw all cells: a row a dataset (and base), a column a method, a line a term through the regimes.

    Marks grow with the regime, so that each line runs from few rows to many; a level line is a ranking that does not
    change with the data.

    Args:
        ranks: Ranks of one or more cells.
        path: The picture; its suffix (.png, .svg, .pdf) is its format.

    Raises:
        InputError: No term was trained.
    """
    methods = _drawn_methods(ranks)
    groups: dict[Cell, list[TermRank]] = {}
    for one in ranks.terms:
        groups.setdefault(one.cell._replace(regime=""), []).append(one)
    fields = [field for field in varying(groups) if field != "regime"]
    regimes = _regimes(ranks)
    with picture(path, max(2.35 * len(methods) + 1.1, 6.4), 2.15 * len(groups) + 0.75, title) as figure:
        panels = figure.subplots(len(groups), len(methods), sharex="row", sharey="row", squeeze=False)
        for down, (row, (group, terms)) in enumerate(zip(panels, groups.items(), strict=True)):
            for at, (axes, method) in enumerate(zip(row, methods, strict=True)):
                of = [one for one in terms if one.method == method]
                _ranks_axis(axes, of or terms, first=at == 0)
                if at == 0:
                    axes.set_ylabel(f"{group.text(fields)}\nimportance rank", fontsize=9, color=INK)
                if down == 0:
                    _method_title(axes, method)
                _lines_through(axes, of, regimes)
                axes.set_xlabel(metric_label(terms[0].metric), fontsize=8, color=GREY)
                axes.margins(x=0.14)
                axes.locator_params(axis="x", nbins=4)
        _legend(figure, ranks, regimes)


def _marks(ranks: Ranks) -> list["Line2D"]:
    """What the marks of figure 1 mean, of those that are drawn."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D(
            [], [], linewidth=0, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=ACCENT,
            label="selected in most seeds",
        )
    ]  # fmt: skip
    if any(len(one.values) > 1 for one in ranks.terms):
        marks += [
            Line2D([], [], linewidth=0, marker="o", markersize=4, color=GREY, alpha=0.4, label="one seed"),
            Line2D([], [], color=GREY, linewidth=1.6, marker="o", label="mean over the seeds, with its interval"),
        ]
    return marks


def _drawn_methods(ranks: Ranks) -> list[str]:
    if not any(one.value is not None for one in ranks.terms):
        raise InputError("no bias term was trained alone, so there is no metric to draw its rank against")
    return in_methods_order(ranks.methods)


def _regimes(ranks: Ranks) -> list[str]:
    return [
        cell.regime
        for cell in sorted(
            {one.cell._replace(base="", dataset="", learning_rate=None, epochs=None) for one in ranks.terms},
            key=lambda cell: cell.order,
        )
    ]


def _method_title(axes: "Axes", method: str) -> None:
    axes.set_title(method_name(method), loc="left", fontsize=11, weight="bold", color=INK)


def _ranks_axis(axes: "Axes", terms: Sequence[TermRank], *, first: bool) -> None:
    """Rank 1 at the top; a band for the inert terms at the bottom."""
    lowest = max(one.terms for one in terms)
    inert = any(one.inert for one in terms)
    plain(axes)
    for rank in range(1, lowest + 1):
        axes.axhline(rank, color=BLANK, linewidth=1.0, zorder=0)
    ticks = [float(rank) for rank in range(1, lowest + 1)]
    labels = [f"{rank:.0f}" for rank in ticks]
    bottom = lowest + 0.6
    if inert:
        axes.axhspan(lowest + 0.7, lowest + 2.1, facecolor=BLANK, edgecolor="none", zorder=0)
        ticks, labels, bottom = [*ticks, _inert_row(terms)], [*labels, "inert"], lowest + 2.1
    axes.set_ylim(bottom, 0.2)
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    if first:
        axes.set_ylabel("importance rank", fontsize=9, color=INK)


def _inert_row(terms: Sequence[TermRank]) -> float:
    return max(one.terms for one in terms) + 1.4


def _seeds_and_means(axes: "Axes", terms: Sequence[TermRank]) -> None:
    others = [one.term for one in terms if one.value is not None]
    for one in terms:
        if one.value is None:
            continue
        colour, mark = look(one.term, others)
        value = 100 * one.value.value
        height = _inert_row(terms) if one.rank is None else one.rank
        if one.points:
            axes.scatter(
                [100 * each for each, _ in one.points],
                [rank for _, rank in one.points],
                s=14,
                marker=mark,
                color=colour,
                alpha=0.28,
                linewidth=0,
                zorder=2,
            )
        if one.value.low is not None and one.value.high is not None:
            axes.plot(
                [100 * one.value.low, 100 * one.value.high],
                [height] * 2,
                color=colour,
                linewidth=1.6,
                solid_capstyle="round",
                alpha=0.65,
                zorder=3,
            )
        axes.scatter(
            [value],
            [height],
            s=62,
            marker=mark,
            zorder=4,
            linewidth=1.5,
            facecolor="white" if one.inert else colour,
            edgecolor=colour,
        )
        if one.chosen > 0.5:
            axes.scatter(
                [value], [height], s=210, marker="o", facecolor="none", edgecolor=ACCENT, linewidth=1.3, zorder=5
            )
        axes.annotate(
            symbol(one.term),
            (value, height),
            xytext=(0, 9 if one.chosen > 0.5 else 6),
            va="bottom",
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=colour,
            zorder=6,
        )


def _lines_through(axes: "Axes", terms: Sequence[TermRank], regimes: Sequence[str]) -> None:
    by_term: dict[str, list[TermRank]] = {}
    for one in terms:
        if one.value is not None:
            by_term.setdefault(one.term, []).append(one)
    for term, of in by_term.items():
        colour, mark = look(term, list(by_term))
        across = [100 * one.value.value for one in of if one.value is not None]
        upwards = [_inert_row(terms) if one.rank is None else one.rank for one in of]
        axes.plot(across, upwards, color=colour, linewidth=1.1, alpha=0.6, zorder=3)
        for one, x, y in zip(of, across, upwards, strict=True):
            axes.scatter(
                [x],
                [y],
                s=_size(one.cell.regime, regimes),
                marker=mark,
                linewidth=1.2,
                zorder=4,
                facecolor="white" if one.inert else colour,
                edgecolor=colour if one.inert else "white",
            )


def _size(regime: str, regimes: Sequence[str]) -> float:
    if len(regimes) == 1:
        return _SIZES[1]
    return float(np.interp(regimes.index(regime) / (len(regimes) - 1), np.linspace(0, 1, len(_SIZES)), _SIZES))


def _legend(figure: "Figure", ranks: Ranks, regimes: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    trained = list(dict.fromkeys(one.term for one in ranks.terms if one.value is not None))
    inert = {one.term for one in ranks.terms if one.inert}
    entries = []
    for term in trained:
        colour, mark = look(term, trained)
        label = f"{symbol(term)}  {term.replace('_', ' ')}" + (" (inert)" if term in inert else "")
        entries.append(
            Line2D(
                [],
                [],
                color=colour,
                marker=mark,
                markersize=7,
                linewidth=1.1,
                label=label,
                markerfacecolor="white" if term in inert else colour,
            )
        )
    if len(regimes) > 1:
        entries += [
            Line2D([], [], color=FAINT, marker="o", markersize=_size(regime, regimes) ** 0.5, linewidth=0, label=regime)
            for regime in regimes
        ]
    figure.legend(
        handles=entries, loc="outside lower left", ncols=len(entries), frameon=False, fontsize=9, labelcolor=INK
    )
