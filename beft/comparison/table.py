"""The table of methods side by side: what each trains, takes and gives, over its seeds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beft.comparison.registry import METHODS
from beft.comparison.result import MethodResult, NotAvailable
from beft.evaluation.t_interval import t_interval
from beft.tables import Column, ScoreInterval, Table


@dataclass(frozen=True)
class MethodRow:
    """One method over its seeds.

    Attributes:
        seeds: In the order of ``values``.
        trainable_parameters: Head included; of several seeds, the most.
        percent: The same in percent of the model's parameters.
        seconds: Of one run, the mean over seeds.
        peak_memory_bytes: The most over seeds; None: not measured.
        runs_in_pass: How many trainings shared a pass at most.
        dev: The dev metric, the mean over seeds; None without dev.
        values: The metric of every seed.
        estimate: Their mean; with two seeds or more its t interval over seeds, with one its interval over rows.
        inert: Whether the biases are all inert, so that the head alone was trained.
        learning_rates: Those that were chosen, each once; empty where nothing beside the head is trained.
        learning_rates_tried: Those that they were chosen from on dev; empty where there was one.
    """

    method: str
    seeds: tuple[int, ...]
    trainable_parameters: int
    percent: float
    seconds: float
    peak_memory_bytes: int | None
    runs_in_pass: int
    dev: float | None
    values: tuple[float, ...]
    estimate: ScoreInterval
    inert: bool
    learning_rates: tuple[float, ...] = ()
    learning_rates_tried: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            **{name: value for name, value in vars(self).items() if name != "estimate"},
            "value": self.estimate.value,
            "low": self.estimate.low,
            "high": self.estimate.high,
        }


def method_rows(
    results: Sequence[MethodResult], metric: str, *, split: str = "test", confidence: float = 0.95
) -> list[MethodRow]:
    """One row a method, in the order of ``METHODS``."""
    found: dict[str, list[MethodResult]] = {}
    for result in results:
        found.setdefault(result.run.method, []).append(result)
    return [_row(method, found[method], metric, split, confidence) for method in METHODS if method in found]


def _row(method: str, runs: Sequence[MethodResult], metric: str, split: str, confidence: float) -> MethodRow:
    scores = [run.scores[split][metric] for run in runs]
    values = tuple(score.value for score in scores)
    peaks = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes is not None]
    devs = [run.dev for run in runs if run.dev is not None]
    most = max(runs, key=lambda run: run.trainable_parameters)
    mean = statistics.mean(values)
    if len(runs) == 1:
        interval: tuple[float | None, float | None] = scores[0].low, scores[0].high
    else:
        interval = t_interval(mean, statistics.stdev(values) / len(values) ** 0.5, len(values) - 1, confidence)
    return MethodRow(
        method=method,
        seeds=tuple(run.run.seed for run in runs),
        trainable_parameters=most.trainable_parameters,
        percent=most.percent,
        seconds=statistics.mean(run.seconds for run in runs),
        peak_memory_bytes=max(peaks) if peaks else None,
        runs_in_pass=max(run.runs_in_pass for run in runs),
        dev=statistics.mean(devs) if devs else None,
        values=values,
        estimate=ScoreInterval(mean, *interval),
        inert=all(run.inert for run in runs),
        learning_rates=_sorted(run.training.learning_rate for run in runs if run.training and run.trained_parameters),
        learning_rates_tried=_sorted(trial["learning_rate"] for run in runs for trial in run.trials),
    )


def _sorted(rates: Iterable[float]) -> tuple[float, ...]:
    return tuple(sorted(set(rates)))


def methods_table(
    rows: Sequence[MethodRow],
    missing: Sequence[NotAvailable],
    *,
    title: str,
    metric: str,
    split: str = "test",
    confidence: float = 0.95,
) -> Table:
    """The table of the rows; the best mean is bold, and what is missing says why."""
    columns: list[str | Column] = [
        "method",
        "seeds",
        "learning rate",
        Column("trainable"),
        Column("% of the model"),
        Column("seconds", digits=1),
        Column("peak memory, MB", digits=0),
        Column(f"dev {metric}", digits=4),
        Column(f"{split} {metric}", digits=4),
    ]
    cells = [
        (
            f"{row.method} (inert: head alone)" if row.inert else row.method,
            len(row.seeds),
            _listed(row.learning_rates) or None,
            row.trainable_parameters,
            row.percent,
            row.seconds,
            None if row.peak_memory_bytes is None else row.peak_memory_bytes / 1e6,
            row.dev,
            row.estimate,
        )
        for row in rows
    ]
    best = max(range(len(rows)), key=lambda at: rows[at].estimate.value) if rows else None
    return Table(
        title=title,
        columns=columns,
        rows=cells,
        notes=[*_notes(rows, confidence), *_reasons(missing)],
        bold=frozenset() if best is None else frozenset({(best, len(columns) - 1)}),
    )


def _notes(rows: Sequence[MethodRow], confidence: float) -> list[str]:
    several = any(len(row.seeds) > 1 for row in rows)
    over = "the mean over seeds with its t interval" if several else "one seed, with an interval over the rows"
    notes = [f"In brackets: {over}, {100 * confidence:g} %. Trainable parameters count the head's."]
    shared = max((row.runs_in_pass for row in rows), default=1)
    if shared > 1:
        notes.append(
            f"Up to {shared} trainings shared a pass: each one's seconds are its share, and the peak memory, above "
            "what the base takes, is that of the pass."
        )
    else:
        notes.append("The peak memory is that above what the base takes.")
    return [*notes, *_notes_of_rates(rows)]


def _notes_of_rates(rows: Sequence[MethodRow]) -> list[str]:
    """What was tried, and where the best was the smallest or the largest of it."""
    tried = {row.method: row.learning_rates_tried for row in rows if row.learning_rates_tried}
    if not tried:
        return []
    listed = "; ".join(f"{method}: {_listed(rates)}" for method, rates in tried.items())
    at_edge = [
        row.method
        for row in rows
        if row.learning_rates_tried
        and {row.learning_rates_tried[0], row.learning_rates_tried[-1]} & {*row.learning_rates}
    ]
    edge = f" At the edge of them, where a wider search may find a better one: {', '.join(at_edge)}." if at_edge else ""
    return [f"Learning rates chosen on dev, for each seed, among these (seconds are of all): {listed}.{edge}"]


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def _reasons(missing: Sequence[NotAvailable]) -> list[str]:
    """One a method that is not to be had, and one a run that failed."""
    by_method = {one.run.method: one for one in missing if not one.failed}
    return [
        *(f"{method}: {one.reason}" for method, one in by_method.items()),
        *(f"{one.run.method}, seed {one.run.seed}, failed: {one.reason}" for one in missing if one.failed),
    ]
