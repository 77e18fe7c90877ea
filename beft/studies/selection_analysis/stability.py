"""How stable a method's ranking of the bias terms is: Kendall's tau between the rankings of every two seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.studies.selection_analysis.cells import Cell, CellTable, Floats, arrange, varying
from beft.studies.selection_analysis.jackknife import Jackknifed, jackknife, mean_over_cells
from beft.studies.selection_analysis.kendall import TAU_RANGE, kendall_tau
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.over_cells import OverCells
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord
from beft.tables import Column, ScoreInterval, Table


@dataclass(frozen=True)
class CellStability:
    """The stability of one method's ranking in one cell.

    Attributes:
        terms: The terms that are ranked.
        seeds: How many seeds were compared.
        tau: Mean of Kendall's tau over every two seeds, with its interval over seeds (three seeds or more).
        same_choice: Share of the pairs of seeds in which the method chooses the same candidate; None where no candidate
            is ranked.
    """

    cell: Cell
    method: str
    terms: tuple[str, ...]
    seeds: int
    tau: ScoreInterval
    same_choice: float | None


@dataclass(frozen=True)
class Stability(OverCells):
    """The stability of every method's ranking over seeds.

    Attributes:
        cells: Every cell and method.
        overall: Method -> mean of its cells' tau, with its interval.
        notes: What was left out, and why.
    """

    cells: tuple[CellStability, ...]
    overall: dict[str, ScoreInterval]
    notes: tuple[str, ...]

    def table(self) -> Table:
        """A row a method and cell, and a row a method over all cells."""
        several = len({one.cell for one in self.cells}) > 1
        fields = varying(one.cell for one in self.cells)
        rows: list[list[Any]] = [
            [one.method, one.cell.text(fields), len(one.terms), one.seeds, one.tau, _percent(one.same_choice)]
            for one in self.cells
        ]
        if several:
            for method, tau in self.overall.items():
                of = [one for one in self.cells if one.method == method]
                same = [one.same_choice for one in of if one.same_choice is not None]
                mean = float(np.mean(same)) if same else None
                rows.append([method, f"mean of {len(of)}", None, None, tau, _percent(mean)])
        columns: list[str | Column] = [
            "method",
            "cell",
            "terms",
            "seeds",
            Column("Kendall's tau", 2),
            Column("same choice, %", 0),
        ]
        return Table("How stable each ranking is over seeds", columns, rows, notes=self.notes)


def stability(
    records: Iterable[TermRecord],
    terms: Sequence[str] | None = None,
    *,
    candidates: Sequence[str] = CANDIDATES,
    exclude_inert: bool = True,
    confidence: float = 0.95,
) -> Stability:
    """Compare the rankings of every two seeds, per method and cell.

    Two seeds are needed for a tau, three for its interval, which is the jackknife's over seeds.

    Args:
        terms: The terms that are ranked; None: every term with an importance, trained or not.
        candidates: The terms among which a method chooses.
        exclude_inert: Rank no inert term.

    Raises:
        InputError: No cell has two seeds and two terms.
    """
    tables = arrange(records, terms, exclude_inert=exclude_inert, measured=False)
    usable = [table for table in tables if len(table.seeds) > 1 and len(table.terms) > 1]
    if not usable:
        raise InputError("ranking stability needs two seeds and two terms that are not inert, in one cell at least")
    cells: list[CellStability] = []
    spreads: dict[str, list[tuple[Cell, Jackknifed]]] = {}
    for table in usable:
        for method, scores in table.importance.items():
            taus = kendall_tau(scores[:, None], scores[None])
            tau = jackknife(lambda kept, of=taus: _mean_of_pairs(of, kept), len(table.seeds), min_units=2)
            spreads.setdefault(method, []).append((table.cell, tau))
            cells.append(
                CellStability(
                    table.cell,
                    method,
                    table.terms,
                    len(table.seeds),
                    tau.estimate(confidence, TAU_RANGE),
                    _same_choice(table, method, candidates),
                )
            )
    cells.sort(key=lambda one: one.method)
    return Stability(
        tuple(cells),
        {
            method: mean_over_cells([cell for cell, _ in found], [tau for _, tau in found], confidence, TAU_RANGE)
            for method, found in sorted(spreads.items())
        },
        (*_notes(tables, usable), *common_notes(tables)),
    )


def _mean_of_pairs(pairs: Floats, kept: Any) -> float:
    """The mean of a symmetric table [seeds, seeds] over every two of the kept seeds."""
    left, right = np.triu_indices(len(kept), k=1)
    return float(pairs[kept[left], kept[right]].mean())


def _same_choice(table: CellTable, method: str, candidates: Sequence[str]) -> float | None:
    places = [at for at, term in enumerate(table.terms) if term in candidates]
    if not places:
        return None
    choices = np.argmax(table.importance[method][:, places], axis=1)
    return _mean_of_pairs(np.equal.outer(choices, choices).astype(np.float64), np.arange(len(choices)))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _notes(tables: Sequence[CellTable], usable: Sequence[CellTable]) -> list[str]:
    notes = ["Kendall's tau-b between the rankings of every two seeds, averaged; 1: every seed ranks the terms alike."]
    skipped = [table.cell.text() for table in tables if table not in usable]
    if skipped:
        notes.append(f"Fewer than two seeds or terms, hence no stability: {'; '.join(skipped)}.")
    return notes
