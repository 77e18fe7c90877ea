"""What it costs to transfer a selection to another data set or model, without a new probe there.

Section 3.4 of arXiv 2509.15974 asks whether the insights of one data set and model hold for others. Here it is a
number: the regret, on the target, of the term that the source's probe selects.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from beft.errors import InputError
from beft.names import known_name
from beft.studies.selection_analysis.cells import FIELDS, CellTable, arrange, mean_over_seeds
from beft.studies.selection_analysis.jackknife import Jackknifed, Kept, jackknife
from beft.studies.selection_analysis.notes import common_notes
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord
from beft.studies.selection_analysis.regret import scaled
from beft.tables import Column, ScoreInterval, Table

_BOUNDS = (0.0, math.inf)
_PLACES = 3
"""From so many places on, averages over the matrix are computed without each place in turn."""

_Place = dict[tuple[Any, ...], CellTable]
"""The cells of a place, by what they have besides the place (regime and settings, say)."""


@dataclass(frozen=True)
class MethodTransfer:
    """The regrets of transferring one method's selection from every place to every other.

    Attributes:
        matrix: Regret by source (outer) and target (inner), in the unit of the metric; on the diagonal the target's
            own probe selects. None where source and target share no term that can be chosen.
        own: Mean regret with the target's own probe, on the cells that ``transferred`` is of. None, as the next two,
            where no place's selection can be transferred to another.
        transferred: Mean regret with the probe of another place.
        cost: ``transferred`` minus ``own``: what saving the probe costs.
    """

    matrix: tuple[tuple[ScoreInterval | None, ...], ...]
    own: ScoreInterval | None
    transferred: ScoreInterval | None
    cost: ScoreInterval | None


@dataclass(frozen=True)
class Transfer:
    """The regrets of transferred selections, by every method.

    Attributes:
        across: In which fields source and target may differ.
        places: The sources and targets.
        methods: Method -> its regrets.
        notes: What was left out, and why.
    """

    across: tuple[str, ...]
    places: tuple[str, ...]
    methods: dict[str, MethodTransfer]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "across": list(self.across),
            "places": list(self.places),
            "methods": {method: asdict(found) for method, found in self.methods.items()},
            "notes": list(self.notes),
        }

    def table(self) -> Table:
        """A row a method: regret in points with the own probe, with another's, and the difference."""
        rows: list[list[Any]] = [
            [method, *(None if one is None else scaled(one) for one in (found.own, found.transferred, found.cost))]
            for method, found in self.methods.items()
        ]
        columns: list[str | Column] = [
            "method",
            Column("own probe", 2),
            Column("transferred", 2),
            Column("cost", 2, signed=True),
        ]
        return Table("Regret of transferred selections, points", columns, rows, notes=self.notes)

    def matrix_table(self, method: str) -> Table:
        """A row a source and a column a target: regret of one method's transferred selection in points."""
        found = self.methods[known_name(method, self.methods, "importance method")]
        rows: list[list[Any]] = [
            [source, *(None if cell is None else scaled(cell) for cell in row)]
            for source, row in zip(self.places, found.matrix, strict=True)
        ]
        columns: list[str | Column] = ["selected on", *(Column(place, 2) for place in self.places)]
        return Table(f"Regret of {method} selections by target, points", columns, rows, notes=self.notes)


def transfer(
    records: Iterable[TermRecord],
    terms: Sequence[str] | None = CANDIDATES,
    *,
    across: Sequence[str] = ("base", "dataset"),
    exclude_inert: bool = True,
    confidence: float = 0.95,
) -> Transfer:
    """Measure the regret, on every target, of what each source's probe selects.

    The term is the source's best-ranked one that can be chosen on the target, where inertness is known without a
    probe. Where places have several cells (regimes, say), a source's cell is transferred to the target's cell of the
    same regime and settings, and the regrets are averaged.

    Args:
        terms: The candidates, of those that were scored and trained; None: all.
        across: In which fields of a cell source and target may differ.

    Raises:
        InputError: A field is unknown, or there are fewer than two places.
    """
    fields = tuple(known_name(field, FIELDS, "field of a cell") for field in across)
    tables = arrange(records, terms, exclude_inert=exclude_inert)
    kept_fields = tuple(field for field in FIELDS if field not in fields)
    by_place: dict[tuple[Any, ...], _Place] = {}
    for table in tables:
        place = tuple(getattr(table.cell, field) for field in fields)
        by_place.setdefault(place, {})[tuple(getattr(table.cell, field) for field in kept_fields)] = table
    if len(by_place) < 2:
        raise InputError("transferring a selection needs two places that differ in " + " or ".join(fields))
    shown = tuple(
        field for at, field in enumerate(fields) if len({place[at] for place in by_place}) > 1 or fields == (field,)
    )
    names = tuple(_first(of).cell.text(shown) for of in by_place.values())
    places = list(by_place.values())
    methods = {
        method: _method(method, places, confidence)
        for method in sorted({method for table in tables for method in table.importance})
    }
    notes = [
        "Regret on the target (column) of the term that the source (row) selects, averaged over the source's seeds; "
        "on the diagonal the target's own probe selects. Points are hundredths of the metric.",
    ]
    if len(places) < _PLACES:
        notes.append("Means over fewer than three places have no interval.")
    return Transfer(fields, names, methods, (*notes, *common_notes(tables)))


def _method(method: str, places: Sequence[_Place], confidence: float) -> MethodTransfer:
    entries = [[_entry(method, source, target) for target in places] for source in places]
    matrix = tuple(tuple(None if one is None else one.estimate(confidence, _BOUNDS) for one in row) for row in entries)
    # [source, target, transferred and own]: both on the same cells, or their difference would be one of cells as well.
    values = np.array([[_transferred_and_own(method, source, target) for target in places] for source in places])
    if np.isnan(values).all():
        return MethodTransfer(matrix, None, None, None)

    def mean(of: int) -> Jackknifed:
        found = jackknife(lambda kept: _mean(values[np.ix_(kept, kept, [of])]), len(places), min_units=2)
        # Without an interval where, without one of the places, nothing is left to average.
        return Jackknifed(found.value) if any(np.isnan(without).any() for without in found.without) else found

    transferred, own = mean(0), mean(1)
    return MethodTransfer(
        matrix,
        own.estimate(confidence, _BOUNDS),
        transferred.estimate(confidence, _BOUNDS),
        (transferred - own).estimate(confidence),
    )


def _transferred_and_own(method: str, source: _Place, target: _Place) -> tuple[float, float]:
    """The regret on the target with the source's probe and with its own, on the cells in which both can choose.

    NaN where there is none, or source and target are the same.
    """
    both = [
        (_transferred(method, source[key], target[key]), _transferred(method, target[key], target[key]))
        for key in target
        if key in source and source is not target
    ]
    known = [(other.value, own.value) for other, own in both if other is not None and own is not None]
    if not known:
        return math.nan, math.nan
    transferred, own = np.mean(known, axis=0)
    return float(transferred), float(own)


def _entry(method: str, source: _Place, target: _Place) -> Jackknifed | None:
    """The regret of one source on one target, averaged over the cells that both have."""
    found = [_transferred(method, source[key], target[key]) for key in target if key in source]
    known = [one for one in found if one is not None]
    if not known:
        return None
    value = math.fsum(one.value for one in known) / len(known)
    if not all(one.without for one in known):
        return Jackknifed(value)
    # Of an average, each cell's seeds move their share.
    without = [value + (group - one.value) / len(known) for one in known for group in one.without]
    return Jackknifed(value, tuple(without))


def _transferred(method: str, source: CellTable, target: CellTable) -> Jackknifed | None:
    shared = [term for term in target.terms if term in source.terms]
    if method not in source.importance or not shared:
        return None
    scores = source.importance[method][:, [source.terms.index(term) for term in shared]]
    chosen = np.array([target.terms.index(shared[choice]) for choice in scores.argmax(axis=1)])

    def regret(from_source: Kept, on_target: Kept) -> float:
        means = mean_over_seeds(target.values[on_target])
        return float((means.max() - means[chosen[from_source]]).mean())

    if source is target:
        return jackknife(lambda kept: regret(kept, kept), len(source.seeds))
    return jackknife(regret, len(source.seeds), len(target.seeds))


def _first(tables: _Place) -> CellTable:
    return next(iter(tables.values()))


def _mean(values: Any) -> float:
    """The mean of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
