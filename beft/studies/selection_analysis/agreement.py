"""How well a method's ranking of the bias terms agrees with how well the terms do when they are trained.

What figures 1 and 4 of arXiv 2509.15974 show by eye, as a number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Cell, CellTable, arrange, mean_over_seeds, varying
from beft.studies.selection_analysis.jackknife import Jackknifed, jackknife, mean_over_cells
from beft.studies.selection_analysis.kendall import TAU_RANGE, kendall_tau
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.over_cells import OverCells
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord
from beft.tables import Column, ScoreInterval, Table


@dataclass(frozen=True)
class CellAgreement:
    """The agreement of one method's ranking with the measured accuracies in one cell.

    Attributes:
        terms: The terms that are ranked.
        seeds: How many seeds were averaged.
        tau: Kendall's tau between the scores in a seed and the mean accuracies, averaged over the seeds.
    """

    cell: Cell
    method: str
    terms: tuple[str, ...]
    seeds: int
    tau: ScoreInterval


@dataclass(frozen=True)
class Agreement(OverCells):
    """The agreement of every method's ranking with the measured accuracies.

    Attributes:
        cells: Every cell and method.
        overall: Method -> mean of its cells' tau, with its interval.
        notes: What was left out, and why.
    """

    cells: tuple[CellAgreement, ...]
    overall: dict[str, ScoreInterval]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """A row a cell and a column a method; the last row is the mean over the cells."""
        methods = list(self.overall)
        cells = list(dict.fromkeys(one.cell for one in self.cells))
        found = {(one.cell, one.method): one for one in self.cells}
        fields = varying(cells)
        rows: list[list[Any]] = []
        for cell in cells:
            of = [found.get((cell, method)) for method in methods]
            terms = next(len(one.terms) for one in of if one is not None)
            rows.append([cell.text(fields), terms, *(one.tau if one is not None else None for one in of)])
        if len(cells) > 1:
            rows.append([f"mean of {len(cells)}", None, *self.overall.values()])
        columns: list[str | Column] = ["cell", "terms", *(Column(method, 2) for method in methods)]
        return Table("Agreement of each ranking with the measured accuracies", columns, rows, notes=self.notes)


def agreement(
    records: Iterable[TermRecord],
    terms: Sequence[str] | None = CANDIDATES,
    *,
    exclude_inert: bool = True,
    confidence: float = 0.95,
) -> Agreement:
    """Correlate each method's ranking with the measured accuracies, per cell and over all cells.

    Args:
        terms: The terms that are ranked, of those that were scored and trained; None: all.
        exclude_inert: Rank no inert term.

    Raises:
        InputError: No cell has two terms.
    """
    tables = arrange(records, terms, exclude_inert=exclude_inert)
    usable = [table for table in tables if len(table.terms) > 1 and table.importance]
    if not usable:
        raise InputError("agreement needs two terms that are not inert, scored and trained, in one cell at least")
    cells: list[CellAgreement] = []
    spreads: dict[str, list[tuple[Cell, Jackknifed]]] = {}
    for table in usable:
        for method in table.importance:
            tau = _agreement(table, method)
            spreads.setdefault(method, []).append((table.cell, tau))
            cells.append(
                CellAgreement(table.cell, method, table.terms, len(table.seeds), tau.estimate(confidence, TAU_RANGE))
            )
    notes = [
        "Kendall's tau-b between a method's scores in a seed and the terms' mean accuracies, averaged over the seeds; "
        "1: higher-ranked terms do better, -1: the reverse, 0: unrelated."
    ]
    skipped = [table.cell.text() for table in tables if table not in usable]
    if skipped:
        notes.append(f"Fewer than two terms, hence nothing to rank: {'; '.join(skipped)}.")
    return Agreement(
        tuple(cells),
        {
            method: mean_over_cells([cell for cell, _ in found], [tau for _, tau in found], confidence, TAU_RANGE)
            for method, found in sorted(spreads.items())
        },
        (*notes, *common_notes(tables)),
    )


def _agreement(table: CellTable, method: str) -> Jackknifed:
    scores = table.importance[method]
    return jackknife(
        lambda kept: float(kendall_tau(scores[kept], mean_over_seeds(table.values[kept])).mean()), len(table.seeds)
    )
