"""What a selection costs: the accuracy of the best bias term minus that of the selected one.

How good a term is in a cell is its mean over the seeds; which term a method chooses is up to each seed's probe. The
best term is the best of measured means, so noise makes every regret a little too large, that of a perfect method too;
differences of two regrets are free of that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Cell, CellTable, Floats, arrange, mean_over_seeds, varying
from beft.studies.selection_analysis.jackknife import Jackknifed, Kept, jackknife, mean_over_cells
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.over_cells import OverCells
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord
from beft.tables import Column, ScoreInterval, Table

RANDOM, VALUE, DEV = "random choice", "always value", "best on dev"
"""What stands beside the methods: a term drawn at random, the value bias without any probe, and the term whose own
training did best on dev (which costs a training of every term)."""

_BOUNDS = (0.0, math.inf)


@dataclass(frozen=True)
class CellRegret:
    """The regret of one way of choosing in one cell.

    Attributes:
        method: An importance method, or one of the lines of comparison.
        best: The term with the highest mean metric.
        chosen: Term -> share of the seeds in which it is chosen.
        seeds: How many seeds there are.
        regret: Metric of the best term minus that of the selected one, in the unit of the metric.
        best_chosen: Share of the seeds in which the selected term is the best (or as good).
    """

    cell: Cell
    method: str
    best: str
    chosen: dict[str, float]
    seeds: int
    regret: ScoreInterval
    best_chosen: float


@dataclass(frozen=True)
class OverallRegret:
    """The regret of one way of choosing over the cells in which it can choose.

    Attributes:
        cells: In how many cells it can choose.
        regret: Mean over these cells.
        best_chosen: Share of cells and seeds in which the selected term is the best.
        less_than: Line of comparison -> its regret minus this one, on the cells that both have: over 0 is better.
    """

    cells: int
    regret: ScoreInterval
    best_chosen: float
    less_than: dict[str, ScoreInterval]


@dataclass(frozen=True)
class Regret(OverCells):
    """The regret of every method and line of comparison.

    Attributes:
        cells: Every cell and way of choosing.
        overall: Way of choosing -> its regret over the cells.
        notes: What was left out, and why.
    """

    cells: tuple[CellRegret, ...]
    overall: dict[str, OverallRegret]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """A row a way of choosing: its regret in points (hundredths of the metric) over all cells."""
        rows: list[list[Any]] = []
        lines = [line for line in (RANDOM, VALUE, DEV) if line in self.overall]
        for method, one in self.overall.items():
            against = [scaled(one.less_than[line]) if line in one.less_than else None for line in lines]
            rows.append([method, one.cells, scaled(one.regret), 100 * one.best_chosen, *against])
        least = min(row[2].value for row in rows)
        columns: list[str | Column] = [
            "choice",
            "cells",
            Column("regret, points", 2),
            Column("best chosen, %", 0),
            *(Column(f"less than {line}", 2, signed=True) for line in lines),
        ]
        bold = frozenset((at, 2) for at, row in enumerate(rows) if row[2].value == least)
        return Table("Regret of each selection", columns, rows, notes=self.notes, bold=bold)

    def cells_table(self) -> Table:
        """A row a cell: its best term, and the regret of every way of choosing in points."""
        methods = list(self.overall)
        cells = list(dict.fromkeys(one.cell for one in self.cells))
        found = {(one.cell, one.method): one for one in self.cells}
        fields = varying(cells)
        rows: list[list[Any]] = []
        for cell in cells:
            of = [found.get((cell, method)) for method in methods]
            best = next(one.best for one in of if one is not None)
            rows.append([cell.text(fields), best, *(scaled(one.regret) if one is not None else None for one in of)])
        columns: list[str | Column] = ["cell", "best term", *(Column(method, 2) for method in methods)]
        return Table("Regret of each selection by cell, points", columns, rows, notes=self.notes)


def scaled(estimate: ScoreInterval, by: float = 100.0) -> ScoreInterval:
    """An estimate in another unit: in points, which are hundredths."""
    low, high = (None if end is None else by * end for end in (estimate.low, estimate.high))
    return ScoreInterval(by * estimate.value, low, high)


def regret(
    records: Iterable[TermRecord],
    terms: Sequence[str] | None = CANDIDATES,
    *,
    exclude_inert: bool = True,
    confidence: float = 0.95,
) -> Regret:
    """Measure what each method's selection costs, per cell and over all cells, beside random choice and always value.

    Args:
        terms: The candidates, of those that were scored and trained; None: all.
        exclude_inert: Neither choose an inert term nor count one as the best.

    Raises:
        InputError: There is nothing to choose from.
    """
    tables = arrange(records, terms, exclude_inert=exclude_inert)
    cells: list[CellRegret] = []
    spreads: dict[str, dict[Cell, Jackknifed]] = {}
    for table in tables:
        for method, choices in _choices(table).items():
            spread = jackknife(lambda kept, of=table, by=choices: _regret(of.values, by, kept), len(table.seeds))
            spreads.setdefault(method, {})[table.cell] = spread
            means = table.mean_values
            cells.append(
                CellRegret(
                    table.cell,
                    method,
                    table.terms[int(np.argmax(means))],
                    {
                        term: float(share)
                        for term, share in zip(table.terms, choices.mean(axis=0), strict=True)
                        if share > 0
                    },
                    len(table.seeds),
                    spread.estimate(confidence, _BOUNDS),
                    float(choices[:, means == means.max()].sum(axis=1).mean()),
                )
            )
    if not any(table.importance for table in tables):
        raise InputError("regret needs a method that can choose, in one cell at least")
    order = [method for method in sorted(spreads) if method not in (RANDOM, VALUE, DEV)]
    order += [line for line in (DEV, VALUE, RANDOM) if line in spreads]
    overall = {}
    for method in order:
        of = [one for one in cells if one.method == method]
        overall[method] = OverallRegret(
            cells=len(of),
            regret=mean_over_cells(list(spreads[method]), list(spreads[method].values()), confidence, _BOUNDS),
            best_chosen=float(np.mean([one.best_chosen for one in of])),
            less_than=_less_than(method, spreads, confidence),
        )
    return Regret(tuple(cells), overall, tuple(_notes(tables)))


def _choices(table: CellTable) -> dict[str, Floats]:
    """Every way of choosing: the probability of each term in each seed [seeds, terms]."""
    every = np.eye(len(table.terms))
    shape = table.values.shape
    choices = {method: every[table.chosen(method)] for method in table.importance}
    if table.dev_values is not None:
        choices[DEV] = every[np.argmax(table.dev_values, axis=1)]
    if "value" in table.terms:
        choices[VALUE] = np.broadcast_to(every[table.terms.index("value")], shape)
    choices[RANDOM] = np.full(shape, 1 / shape[1])
    return choices


def _regret(values: Floats, choices: Floats, kept: Kept) -> float:
    means = mean_over_seeds(values[kept])
    return float(max((means.max() - choices[kept] @ means).mean(), 0.0))


def _less_than(
    method: str, spreads: Mapping[str, Mapping[Cell, Jackknifed]], confidence: float
) -> dict[str, ScoreInterval]:
    found = {}
    for line in (RANDOM, VALUE, DEV):
        both = [cell for cell in spreads[method] if line in spreads and cell in spreads[line]]
        if line != method and both:
            differences = [spreads[line][cell] - spreads[method][cell] for cell in both]
            found[line] = mean_over_cells(both, differences, confidence)
    return found


def _notes(tables: Sequence[CellTable]) -> list[str]:
    notes = [
        "Regret: the metric of the best candidate (by its mean over the seeds) minus that of the selected one, paired "
        "over seeds; points are hundredths of the metric.",
    ]
    metrics = sorted({table.metric for table in tables})
    if len(metrics) > 1:
        notes.append(f"Averaged over cells of several metrics: {', '.join(metrics)}.")
    alone = [table.cell.text() for table in tables if len(table.terms) == 1]
    if alone:
        notes.append(f"Only one candidate that is not inert, hence no regret: {'; '.join(alone)}.")
    return [*notes, *common_notes(tables)]
