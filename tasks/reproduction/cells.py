"""The cells of a reproduction: the records of its measurements by base, dataset, regime, method and setting.

A cell that was asked for and has no record has a reason instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from beft.settings import TERMS
from beft.studies.published.table import AVERAGE, Published
from beft.studies.selection_analysis.jackknife import jackknife
from beft.studies.selection_analysis.records import TermRecord
from beft.tables import ScoreInterval
from tasks.reproduction.measured import Failed, Measured, Measurement, Scored
from tasks.reproduction.plan import Unavailable


class ReportPlan(BaseModel):
    """What a report has to know of the plan; ``plan.json``.

    Attributes:
        bases: Short name -> the base as it was asked for.
        measurements: Key -> base, dataset and regime of each measurement.
        merges: Keys of the merges of the datasets' adapters, one a base and seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    protocol: str
    seeds: int
    bases: dict[str, str]
    datasets: tuple[str, ...]
    regimes: tuple[str, ...]
    methods: tuple[str, ...]
    measurements: dict[str, tuple[str, str, str]]
    merges: tuple[str, ...] = ()
    missing: tuple[Unavailable, ...]
    facts: dict[str, Any] = {}


def merge_key(base: str, regime: str, seed: int) -> str:
    """The key of the merge of one seed's adapters."""
    return f"merge/{base}/{regime}-seed{seed}"


def merge_place(key: str) -> tuple[str, str]:
    """The base and the regime of a merge's key."""
    _, base, rest = key.split("/")
    return base, rest.rpartition("-seed")[0]


@dataclass(frozen=True)
class CellKey:
    """What names a cell of a table."""

    base: str
    dataset: str
    regime: str
    method: str
    learning_rate: float | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Cell:
    """The runs of one cell, one a seed.

    Attributes:
        reason: Why there are no runs.
        failed: Why runs failed that the cell lacks, beside those that it has.
    """

    records: tuple[Measured, ...] = ()
    reason: str | None = None
    failed: tuple[str, ...] = ()

    def metric(self, wanted: str | None) -> str:
        """The wanted metric where the runs have it, else their headline."""
        first = self.records[0]
        return wanted if wanted in first.scores else first.metric

    def values(self, metric: str | None = None) -> dict[int, float]:
        """Seed -> the metric on test."""
        return {record.seed: record.scores[self.metric(metric)] for record in self.records}

    def estimate(self, metric: str | None = None) -> ScoreInterval:
        """The mean over seeds with Student's t interval."""
        return mean_of(list(self.values(metric).values()))

    @property
    def selected(self) -> float | None:
        """The share of seeds in which the importance selected this term; None where none was computed."""
        told = [record.selected for record in self.records if record.selected is not None]
        return sum(told) / len(told) if told else None

    @property
    def seconds(self) -> ScoreInterval | None:
        """The mean time of a run; None where it is not known."""
        costs = [record.cost.seconds for record in self.records if record.cost and record.cost.seconds is not None]
        return mean_of(costs) if costs else None

    @property
    def alone(self) -> bool:
        """Whether no run shared its pass."""
        return all(record.cost is not None and record.cost.shared_with == 0 for record in self.records)


@dataclass(frozen=True)
class Cells:
    """All cells of a reproduction.

    Attributes:
        metrics: Dataset -> the metric that is shown: the published one where it was measured, else the headline.
        scored: Key of a probe -> what each of its seeds says of every term.
    """

    outline: ReportPlan
    by_key: dict[CellKey, Cell]
    metrics: dict[str, str] = field(default_factory=dict)
    scored: dict[CellKey, list[Scored]] = field(default_factory=dict)

    def at(self, place: CellKey) -> Cell:
        """A cell, or an empty one; what could not be measured at all has its reason in every setting."""
        without_setting = replace(place, learning_rate=None, epochs=None)
        return self.by_key.get(place) or Cell(reason=self.by_key.get(without_setting, Cell()).reason)

    @property
    def settings(self) -> list[tuple[float | None, int | None]]:
        """The learning rates and lengths that are compared; one pair of None where none are."""
        found = {
            (place.learning_rate, place.epochs)
            for place, cell in self.by_key.items()
            if cell.records or (place.learning_rate, place.epochs) != (None, None)
        }
        return sorted(found, key=lambda pair: (pair[0] or 0.0, pair[1] or 0)) or [(None, None)]

    @property
    def in_order(self) -> list[tuple[CellKey, Cell]]:
        """All cells in the order in which they were asked for."""
        outline = self.outline
        orders = [list(outline.bases), outline.datasets, outline.regimes, outline.methods]

        def rank(place: CellKey) -> tuple[float, ...]:
            names = (place.base, place.dataset, place.regime, place.method)
            ranks = [
                order.index(name) if name in order else len(order) for order, name in zip(orders, names, strict=True)
            ]
            return (*ranks, place.learning_rate or 0.0, place.epochs or 0)

        return sorted(self.by_key.items(), key=lambda item: rank(item[0]))

    @property
    def measured(self) -> dict[CellKey, Cell]:
        """The cells that have runs, in their order."""
        return {place: cell for place, cell in self.in_order if cell.records}


def mean_of(values: Sequence[float], confidence: float = 0.95) -> ScoreInterval:
    """The mean over seeds with Student's t interval; no interval for a single seed."""
    numbers = np.array(values)
    return jackknife(lambda kept: float(numbers[kept].mean()), len(numbers)).estimate(confidence)


def gather(outline: ReportPlan, found: dict[str, Measurement], published: Published) -> Cells:
    """Sort the records of the measurements into cells.

    Args:
        found: Key of the outline -> its measurement; one that failed is missing, and has a reason in the outline.
    """
    records: dict[CellKey, list[Measured]] = {}
    reasons: dict[CellKey, str] = {}
    scored: dict[CellKey, list[Scored]] = {}
    failed: dict[CellKey, list[str]] = {}
    varied = _varied(found.values())
    for key, measurement in found.items():
        base, dataset, regime = outline.measurements[key]
        for record in measurement.records:
            place = CellKey(base, dataset, regime, record.method, *_setting(record, varied))
            records.setdefault(place, []).append(record)
        for probe in measurement.scored:
            place = CellKey(base, dataset, regime, "all_biases", *_setting(probe, varied))
            scored.setdefault(place, []).append(probe)
        for method, reason in measurement.unavailable.items():
            reasons[CellKey(base, dataset, regime, method)] = reason
        for lost in measurement.failed:
            place = CellKey(base, dataset, regime, lost.method, *_setting(lost, varied))
            failed.setdefault(place, []).append(f"{lost.method}, seed {lost.seed}, failed: {lost.reason}")
    for one in outline.missing:
        for method in one.methods:
            reasons.setdefault(CellKey(one.base, one.dataset, one.regime, method), one.reason)
    cells = {
        place: Cell(tuple(sorted(of_place, key=lambda record: record.seed)), failed=tuple(failed.get(place, ())))
        for place, of_place in records.items()
    }
    cells |= {place: Cell(reason="; ".join(said)) for place, said in failed.items() if place not in cells}
    cells |= {place: Cell(reason=reason) for place, reason in reasons.items() if place not in cells}
    wanted = {score.dataset: score.metric for score in published.scores if score.dataset != AVERAGE}
    metrics = {place.dataset: cell.metric(wanted.get(place.dataset)) for place, cell in cells.items() if cell.records}
    return Cells(outline, cells, metrics, scored)


def term_records(cells: Cells) -> list[TermRecord]:
    """The records as the analysis of selections takes them: terms that were trained, and those only scored."""
    found = [
        TermRecord(
            **_cell_of(place, record.seed, cells),
            term=record.method,
            importance=record.importance or {},
            inert=bool(record.inert),
            value=record.scores[cells.metrics[place.dataset]],
            dev_value=record.dev if cells.metrics[place.dataset] == record.metric else None,
        )
        for place, cell in cells.measured.items()
        for record in cell.records
        if record.method in (*TERMS, "all_biases")
    ]
    trained = {(one.base, one.dataset, one.regime, one.learning_rate, one.epochs, one.seed, one.term) for one in found}
    for place, probes in cells.scored.items():
        for probe in probes:
            of_probe = _cell_of(place, probe.seed, cells)
            for term, importance in probe.importance.items():
                one = TermRecord(**of_probe, term=term, importance=importance, inert=probe.inert[term])
                key = (one.base, one.dataset, one.regime, one.learning_rate, one.epochs, one.seed, one.term)
                if key not in trained:
                    found.append(one)
    return found


def _cell_of(place: CellKey, seed: int, cells: Cells) -> dict[str, Any]:
    return {
        "base": place.base,
        "dataset": place.dataset,
        "regime": place.regime,
        "seed": seed,
        "metric": cells.metrics[place.dataset],
        "learning_rate": place.learning_rate,
        "epochs": place.epochs,
    }


def _varied(found: Iterable[Measurement]) -> tuple[bool, bool]:
    """Whether learning rates, and lengths, are compared: a method has runs of one seed that differ in them."""
    rates = lengths = False
    for measurement in found:
        by_run: dict[tuple[str, int], list[Measured | Failed]] = {}
        runs: list[Measured | Failed] = [*measurement.records, *measurement.failed]
        for record in runs:
            by_run.setdefault((record.method, record.seed), []).append(record)
        rates |= any(len({record.learning_rate for record in runs}) > 1 for runs in by_run.values())
        lengths |= any(len({record.epochs for record in runs}) > 1 for runs in by_run.values())
    return rates, lengths


def _setting(record: Measured | Scored | Failed, varied: tuple[bool, bool]) -> tuple[float | None, int | None]:
    return record.learning_rate if varied[0] else None, record.epochs if varied[1] else None
