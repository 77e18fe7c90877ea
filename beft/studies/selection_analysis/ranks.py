"""The rank of every bias term by every method beside what the term reaches when it is trained: figures 1 and 4."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beft.studies.selection_analysis.cells import Cell, CellTable, arrange, cell_of, varying
from beft.studies.selection_analysis.jackknife import mean_estimate
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord
from beft.studies.selection_analysis.regret import scaled
from beft.tables import Column, ScoreInterval, Table


@dataclass(frozen=True)
class TermRank:
    """One term by one method in one cell.

    Attributes:
        ranks: Rank in each seed among all scored terms that are not inert, 1 for the highest score, the mean of their
            ranks for equal scores; empty for an inert term.
        terms: How many terms are ranked.
        importance: Mean score over the seeds; None where the method has none (an inert term without a direction).
        metric: Name of the metric of ``value``.
        value: Metric of the term trained alone, mean over its seeds with its interval; None where it was not trained.
        values: The metric in each of these seeds, ascending.
        points: The metric and the rank of each seed that has both.
        chosen: Share of the seeds in which the method chooses the term among the candidates.
        inert: Whether the term is inert.
    """

    cell: Cell
    method: str
    term: str
    ranks: tuple[float, ...]
    terms: int
    importance: float | None
    metric: str
    value: ScoreInterval | None
    values: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    chosen: float
    inert: bool

    @property
    def rank(self) -> float | None:
        """The mean rank over the seeds; None for an inert term."""
        return float(np.mean(self.ranks)) if self.ranks else None

    def to_json(self) -> dict[str, Any]:
        """The rank as JSON values."""
        return {**asdict(self), "cell": self.cell._asdict(), "rank": self.rank}


@dataclass(frozen=True)
class Ranks:
    """The ranks of all terms.

    Attributes:
        terms: Every cell, method and term.
        notes: What was left out, and why.
    """

    terms: tuple[TermRank, ...]
    notes: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """The methods that rank the terms of any cell."""
        return list(dict.fromkeys(one.method for one in self.terms))

    def to_json(self) -> dict[str, Any]:
        """The ranks as JSON values."""
        return {"terms": [one.to_json() for one in self.terms], "notes": list(self.notes)}

    def table(self) -> Table:
        """A row a cell and term: its metric in points and its mean rank by every method."""
        found = {(one.cell, one.term, one.method): one for one in self.terms}
        keys = list(dict.fromkeys((one.cell, one.term) for one in self.terms))
        fields = varying(cell for cell, _ in keys)
        rows: list[list[Any]] = []
        for cell, term in keys:
            of = [found.get((cell, term, method)) for method in self.methods]
            value = next((one.value for one in of if one is not None), None)
            row: list[Any] = [cell.text(fields), term, None if value is None else scaled(value)]
            for one in of:
                row.append("inert" if one is not None and one.inert else None if one is None else f"{one.rank:.1f}")
            rows.append(row)
        columns: list[str | Column] = ["cell", "term", Column("metric, points", 1)]
        columns += [f"rank by {method}" for method in self.methods]
        return Table("Importance ranking beside the metric of each term", columns, rows, notes=self.notes)


def ranks(
    records: Iterable[TermRecord], *, candidates: Sequence[str] = CANDIDATES, exclude_inert: bool = True
) -> Ranks:
    """Rank all scored terms by every method, in every seed.

    Args:
        candidates: The terms among which a method chooses.
        exclude_inert: Give an inert term no rank.
    """
    listed = list(records)
    tables = arrange(listed, exclude_inert=exclude_inert, measured=False)
    found: list[TermRank] = []
    for table in tables:
        of = [record for record in listed if cell_of(record) == table.cell]
        for method in table.importance:
            found += _ranks(table, method, of, candidates)
    notes = ["Ranks are means over the seeds, among all scored terms that are not inert; 1: the highest score."]
    return Ranks(tuple(found), (*notes, *common_notes(tables)))


def _ranks(table: CellTable, method: str, records: Sequence[TermRecord], candidates: Sequence[str]) -> list[TermRank]:
    from scipy.stats import rankdata

    scores = table.importance[method]
    of_seed = rankdata(-scores, axis=1)
    places = [at for at, term in enumerate(table.terms) if term in candidates]
    choices = [places[choice] for choice in scores[:, places].argmax(axis=1)] if places else []
    found = []
    for term in (*table.terms, *table.inert):
        inert = term in table.inert
        by_seed = {record.seed: record.value for record in records if record.term == term and record.value is not None}
        values = tuple(by_seed[seed] for seed in sorted(by_seed))
        at = None if inert else table.terms.index(term)
        ranks_by_seed = {} if at is None else dict(zip(table.seeds, map(float, of_seed[:, at]), strict=True))
        known = [
            score for record in records if record.term == term and (score := record.importance.get(method)) is not None
        ]
        found.append(
            TermRank(
                cell=table.cell,
                method=method,
                term=term,
                ranks=tuple(ranks_by_seed.values()),
                terms=len(table.terms),
                importance=float(np.mean(known)) if known else None,
                metric=table.metric,
                value=mean_estimate(np.array(values)) if values else None,
                values=values,
                points=tuple((by_seed[seed], rank) for seed, rank in ranks_by_seed.items() if seed in by_seed),
                chosen=choices.count(at) / len(choices) if choices and at is not None else 0.0,
                inert=inert,
            )
        )
    return found
