"""What a reproduction will take: rows, epochs, steps and minutes of every measurement, and what is finished already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Self

from beft.comparison.registry import METHODS, Kind
from beft.tables import Cell, Column, Table
from beft.training.engine.cost import readable_seconds
from beft.training.learning_rates import at_own_rate, searched
from beft.training.sample import learnt_rows, settings_of
from beft.training_settings import TrainingSettings
from tasks.reproduction.forecast import Forecast
from tasks.reproduction.plan import PlannedMeasurement


@dataclass(frozen=True)
class PlanCost:
    """What one measurement takes.

    Attributes:
        rows: Rows that are learnt from.
        epochs: The length of each of its runs.
        seconds: About how long it takes; 0 for one that is finished.
    """

    rows: int
    epochs: tuple[int, ...]
    steps: int
    seconds: float
    finished: bool

    @classmethod
    def of(cls, planned: PlannedMeasurement, rows: Mapping[str, int], forecast: Path | None, *, finished: bool) -> Self:
        """The price of a measurement.

        Args:
            rows: Split -> rows of its prepared data.
            forecast: The folder of the base's forecast; None: everything is finished.
        """
        settings = planned.settings
        learnt = learnt_rows(rows, settings.protocol)
        lengths = run_lengths(planned, learnt)
        steps = sum(length * -(-learnt // settings.train.batch_size) for length in lengths)
        seconds = 0.0
        if forecast is not None and not finished:
            one = Forecast.load(forecast, f"{planned.dataset}/{planned.regime}")
            seconds = sum(one.seconds(length) for length in lengths)
        return cls(learnt, tuple(lengths), steps, seconds, finished)


def run_lengths(planned: PlannedMeasurement, rows: int) -> list[int]:
    """The epochs of each run of a measurement, those that try learning rates on dev included; 0 without training.

    Args:
        rows: Rows that are learnt from.
    """
    settings, lengths = planned.settings, []
    for method, _ in product(planned.methods, planned.seeds):
        requested = settings.probe if method == "all_biases" else settings.train
        section = settings_of(requested, settings, planned.dataset, rows)
        if METHODS[method] in (Kind.UNTRAINED, Kind.FEATURES):
            lengths.append(0)
            continue
        compared = METHODS[method] is Kind.BIASES
        rates = len(settings.measure.compared_learning_rates) if compared else 0
        epochs = (settings.measure.compared_epochs if compared else ()) or (section.epochs,)
        lengths += [one for one in epochs for _ in range(rates or _tried(planned, method, section))]
    return lengths


def _tried(planned: PlannedMeasurement, method: str, section: TrainingSettings) -> int:
    """How many learning rates a run tries, each with a training of its own."""
    settings, measure = planned.settings, planned.settings.measure
    if METHODS[method] is Kind.WEIGHTS:
        named, usual = measure.weight_learning_rate, section.learning_rate  # only how many there are counts here
        section = at_own_rate(section, usual, settings, rate=named, search=measure.searches)
    elif measure.searches:
        section = searched(section, settings, planned.dataset)
    return max(1, len(section.learning_rates))


def price_table(title: str, planned: Sequence[PlannedMeasurement], prices: Mapping[str, PlanCost]) -> Table:
    """A line a base, dataset, regime and group of methods, over all its seeds; the last one is the sum."""
    groups: dict[tuple[str, ...], list[PlanCost]] = {}
    for one in planned:
        key: tuple[str, ...] = (one.base, one.dataset, one.regime, ", ".join(one.methods))
        groups.setdefault(key, []).append(prices[one.key])
    rows: list[list[Cell]] = []
    for names, of_group in groups.items():
        epochs = sorted({length for price in of_group for length in price.epochs})
        rows.append([*names, *_sums(of_group), " to ".join(str(one) for one in dict.fromkeys((epochs[0], epochs[-1])))])
    rows.append(["all", "", "", "", *_sums([price for of_group in groups.values() for price in of_group]), ""])
    columns = ["model", "dataset", "regime", "methods", "runs", "train rows", "steps", "about", "finished", "epochs"]
    order = [0, 1, 2, 3, 4, 5, 9, 6, 7, 8]
    return Table(
        f"{title}: what it takes",
        [Column(columns[at]) for at in order],
        [[row[at] for at in order] for row in rows],
        notes=["Measured on one batch of each dataset; runs that share a pass take the same time in all."],
    )


def _sums(of_group: Sequence[PlanCost]) -> list[Cell]:
    seconds = sum(price.seconds for price in of_group)
    finished = sum(price.finished for price in of_group)
    rows = sorted({price.rows for price in of_group})
    return [
        sum(len(price.epochs) for price in of_group),
        " to ".join(f"{one:,}" for one in dict.fromkeys((rows[0], rows[-1]))),
        sum(price.steps for price in of_group),
        "0" if finished == len(of_group) else readable_seconds(seconds),
        f"{finished} of {len(of_group)}",
    ]
