"""Whether the gap in importance between two bias terms follows the gap in their accuracy.

arXiv 2509.15974 reads this off figure 4 (over regimes) and in section 3.4 (over learning rates and epochs): where the
value bias scores higher above the query bias, it should do better above it; and a larger importance of the value bias
should go with a better value bias.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.names import known_name
from beft.studies.selection_analysis.cells import (
    FIELDS,
    Cell,
    CellTable,
    Floats,
    arrange,
    cell_of,
    mean_over_seeds,
    varying,
)
from beft.studies.selection_analysis.jackknife import Jackknifed, Kept, jackknife, mean_estimate, mean_over_cells
from beft.studies.selection_analysis.kendall import TAU_RANGE, kendall_tau
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.records import TermRecord
from beft.studies.selection_analysis.regret import scaled
from beft.tables import Column, ScoreInterval, Table

SETTINGS = ("learning_rate", "epochs")
"""What section 3.4 varies."""


@dataclass(frozen=True)
class GapPoint:
    """Two terms in one cell, by one method; means over the seeds, intervals paired over them.

    Attributes:
        metric: Name of the metric.
        importance: Term -> its score, of the two terms.
        value: Term -> its metric on test, of the two terms.
        importance_gap: Score of the first term minus that of the second.
        value_gap: Metric of the first term minus that of the second.
        beside: Name -> metric of what was trained beside the terms (``all_biases``, say).
    """

    cell: Cell
    method: str
    seeds: int
    metric: str
    importance: dict[str, ScoreInterval]
    value: dict[str, ScoreInterval]
    importance_gap: ScoreInterval
    value_gap: ScoreInterval
    beside: dict[str, ScoreInterval]


@dataclass(frozen=True)
class Trend:
    """How importance and accuracy go together along the points that differ in nothing else.

    Attributes:
        cell: What the points share.
        points: How many there are.
        gap: Kendall's tau between the gap in importance and the gap in the metric.
        level: Kendall's tau between the first term's importance and its metric.
    """

    cell: Cell
    method: str
    points: int
    gap: ScoreInterval
    level: ScoreInterval


@dataclass(frozen=True)
class Gaps:
    """The gaps between two terms, and whether that in importance follows that in the metric.

    Attributes:
        first: The term that is expected to be the better one.
        second: The other one.
        along: What varies from point to point: fields of a cell.
        points: Every cell and method.
        trends: Every group of points and method.
        overall: Method -> the mean over the trends, of ``gap`` and of ``level``.
        notes: What was left out, and why.
    """

    first: str
    second: str
    along: tuple[str, ...]
    points: tuple[GapPoint, ...]
    trends: tuple[Trend, ...]
    overall: dict[str, dict[str, ScoreInterval]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        value = asdict(self)
        for name, listed in (("points", self.points), ("trends", self.trends)):
            value[name] = [{**asdict(one), "cell": one.cell._asdict()} for one in listed]
        return {**value, "along": list(self.along), "notes": list(self.notes)}

    def table(self) -> Table:
        """A row a trend and method, and a row a method over all trends."""
        fields = varying(one.cell for one in self.trends)
        rows: list[list[Any]] = [
            [one.method, one.cell.text(fields) or "all", one.points, one.gap, one.level] for one in self.trends
        ]
        if len({one.cell for one in self.trends}) > 1:
            for method, taus in self.overall.items():
                count = sum(one.method == method for one in self.trends)
                rows.append([method, f"mean of {count}", None, taus["gap"], taus["level"]])
        columns: list[str | Column] = [
            "method",
            "cell",
            "points",
            Column("tau of the gaps", 2),
            Column(f"tau of {self.first}", 2),
        ]
        title = f"Does importance follow the metric along {_spoken(self.along)}?"
        return Table(title, columns, rows, notes=self.notes)

    def points_table(self, method: str) -> Table:
        """A row a cell: importance by ``method`` and metric (in points) of both terms, and their gaps."""
        points = [one for one in self.points if one.method == known_name(method, self.overall, "importance method")]
        fields = varying(one.cell for one in points)
        beside = list(dict.fromkeys(name for one in points for name in one.beside))
        rows: list[list[Any]] = []
        for one in points:
            row: list[Any] = [one.cell.text(fields), one.seeds]
            row += [one.importance[self.first], one.importance[self.second], one.importance_gap]
            row += [scaled(one.value[self.first]), scaled(one.value[self.second]), scaled(one.value_gap)]
            rows.append(row + [scaled(one.beside[name]) if name in one.beside else None for name in beside])
        columns: list[str | Column] = ["cell", "seeds"]
        columns += [
            f"importance of {self.first}",
            f"importance of {self.second}",
            Column("importance gap", signed=True),
        ]
        columns += [Column(self.first, 1), Column(self.second, 1), Column("gap, points", 1, signed=True)]
        columns += [Column(name, 1) for name in beside]
        return Table(f"{self.first} and {self.second} by {method}", columns, rows, notes=self.notes)


def gaps(
    records: Iterable[TermRecord],
    first: str = "value",
    second: str = "query",
    *,
    along: Sequence[str] = SETTINGS,
    confidence: float = 0.95,
) -> Gaps:
    """Set the gap in importance between two terms against the gap in their metric.

    Args:
        first: The term that is expected to be the better one.
        second: The other one.
        along: Which fields vary within a trend (base, dataset, regime, learning_rate, epochs); cells that differ in
            another one belong to another trend.

    Raises:
        InputError: A field is unknown, no cell has both terms, or no two cells differ in ``along`` alone.
    """
    fields = tuple(known_name(field, FIELDS, "field of a cell") for field in along)
    listed = list(records)
    pair = [record for record in listed if record.term in (first, second) and record.importance]
    # Both terms are compared whether they can be chosen or not.
    tables = arrange(pair, exclude_inert=False) if pair else []
    usable = [table for table in tables if len(table.terms) == 2]
    if not usable:
        raise InputError(f"no cell has both terms, {first} and {second}, scored and trained in the same seeds")
    beside = _beside(listed, confidence)
    points = [
        _point(table, method, first, second, beside.get(table.cell, {}), confidence)
        for table in usable
        for method in table.importance
    ]
    groups: dict[Cell, list[CellTable]] = {}
    for table in usable:
        groups.setdefault(_without(table.cell, fields), []).append(table)
    found: dict[str, list[tuple[Cell, int, Jackknifed, Jackknifed]]] = {}
    for cell, members in groups.items():
        for method in sorted({method for table in members for method in table.importance}):
            of = [table for table in members if method in table.importance]
            seeds = sorted(set.intersection(*(set(table.seeds) for table in of)))
            if len(of) > 1 and seeds:
                gap, level = (_trend(of, method, first, second, seeds, gap=gap) for gap in (True, False))
                found.setdefault(method, []).append((cell, len(of), gap, level))
    if not found:
        raise InputError(f"no two cells differ in {_spoken(fields)} alone, with the same seeds")
    trends = tuple(
        Trend(cell, method, count, gap.estimate(confidence, TAU_RANGE), level.estimate(confidence, TAU_RANGE))
        for method in sorted(found)
        for cell, count, gap, level in found[method]
    )
    overall = {
        method: {
            "gap": mean_over_cells([one[0] for one in of], [one[2] for one in of], confidence, TAU_RANGE),
            "level": mean_over_cells([one[0] for one in of], [one[3] for one in of], confidence, TAU_RANGE),
        }
        for method, of in sorted(found.items())
    }
    notes = [
        f"Gaps are {first} minus {second}, paired over seeds. Kendall's tau over the points of a trend; 1: the larger "
        f"the gap in importance (or the importance of {first}), the larger the gap in the metric (or the metric).",
    ]
    return Gaps(first, second, fields, tuple(points), trends, overall, (*notes, *common_notes(tables)))


def _point(
    table: CellTable, method: str, first: str, second: str, beside: Mapping[str, ScoreInterval], confidence: float
) -> GapPoint:
    one, other = table.terms.index(first), table.terms.index(second)
    scores, values = table.importance[method], table.values
    return GapPoint(
        table.cell,
        method,
        len(table.seeds),
        table.metric,
        {first: mean_estimate(scores[:, one], confidence), second: mean_estimate(scores[:, other], confidence)},
        {first: mean_estimate(values[:, one], confidence), second: mean_estimate(values[:, other], confidence)},
        mean_estimate(scores[:, one] - scores[:, other], confidence),
        mean_estimate(values[:, one] - values[:, other], confidence),
        dict(beside),
    )


def _trend(
    tables: Sequence[CellTable], method: str, first: str, second: str, seeds: Sequence[int], *, gap: bool
) -> Jackknifed:
    """Kendall's tau over cells between importance and metric: of the gap, or of the first term."""
    importance: list[Floats] = []
    values: list[Floats] = []
    for table in tables:
        rows = [table.seeds.index(seed) for seed in seeds]
        one, other = table.terms.index(first), table.terms.index(second)
        for numbers, into in ((table.importance[method], importance), (table.values, values)):
            into.append(numbers[rows, one] - numbers[rows, other] if gap else numbers[rows, one])
    by_seed, values_by_seed = np.array(importance).T, np.array(values).T  # [seeds, cells]
    # Fisher information may be as small as the digits that a mean over seeds leaves out.
    by_seed = by_seed / (float(np.abs(by_seed).max()) or 1.0)

    def tau(kept: Kept) -> float:
        return float(kendall_tau(mean_over_seeds(by_seed[kept]), mean_over_seeds(values_by_seed[kept])))

    return jackknife(tau, len(seeds))


def _beside(records: Sequence[TermRecord], confidence: float) -> dict[Cell, dict[str, ScoreInterval]]:
    """The metric of the records without importance, by cell and name."""
    values: dict[Cell, dict[str, list[float]]] = {}
    for record in records:
        if not record.importance and record.value is not None:
            values.setdefault(cell_of(record), {}).setdefault(record.term, []).append(record.value)
    return {
        cell: {name: mean_estimate(np.array(of), confidence) for name, of in sorted(named.items())}
        for cell, named in values.items()
    }


def _without(cell: Cell, fields: Sequence[str]) -> Cell:
    """The cell without some of its fields."""
    blank: dict[str, Any] = {"base": "", "dataset": "", "regime": "", "learning_rate": None, "epochs": None}
    return cell._replace(**{field: blank[field] for field in fields})


def _spoken(fields: Sequence[str]) -> str:
    return " and ".join(field.replace("_", " ") for field in fields)
