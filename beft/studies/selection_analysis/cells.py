"""The cells of an experiment: for each combination of base, dataset, regime and setting, terms by seeds.

A cell holds what can be compared with each other: the records of the same terms in the same seeds. Inert terms are
left out, as the selection leaves them out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beft.errors import InputError
from beft.importance.result import terms_in_order
from beft.studies.selection_analysis.records import REGIMES, TermRecord, check_records

Floats = NDArray[np.float64]

FIELDS = ("base", "dataset", "regime", "learning_rate", "epochs")


class Cell(NamedTuple):
    """One combination of what an experiment varies besides terms and seeds."""

    base: str
    dataset: str
    regime: str
    learning_rate: float | None = None
    epochs: int | None = None

    @property
    def order(self) -> tuple[Any, ...]:
        """Where the cell stands: by name, regimes from low to all, numbers ascending."""
        regime = (REGIMES.index(self.regime), 0) if self.regime in REGIMES else (len(REGIMES), _number(self.regime))
        return (self.base, self.dataset, regime, self.regime, self.learning_rate or 0.0, self.epochs or 0)

    def text(self, fields: Sequence[str] = FIELDS) -> str:
        """The cell in words, of the given fields those that are set."""
        parts = []
        for field in fields:
            value = getattr(self, field)
            if field == "learning_rate" and value is not None:
                parts.append(f"lr {value:g}")
            elif field == "epochs" and value is not None:
                parts.append(f"{value} epochs" if value != 1 else "1 epoch")
            elif value not in ("", None):
                parts.append(str(value))
        return " \N{MIDDLE DOT} ".join(parts)


@dataclass(frozen=True)
class CellTable:
    """The records of one cell as arrays.

    Attributes:
        cell: Which cell.
        metric: Name of the metric of ``values``.
        terms: The terms that can be chosen, in the order of the settings.
        seeds: The seeds in which each of ``terms`` was scored and trained, ascending.
        values: The metric on test [seeds, terms].
        dev_values: The metric on dev [seeds, terms]; None where a record has none.
        importance: Method -> mean scores [seeds, terms], of the methods that score every one of ``terms``.
        inert: Terms that were left out as inert.
        unable: Method -> why it cannot choose in this cell.
        left_out: Seeds that lack a term.
    """

    cell: Cell
    metric: str
    terms: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    dev_values: Floats | None
    importance: Mapping[str, Floats]
    inert: tuple[str, ...]
    unable: Mapping[str, str]
    left_out: tuple[int, ...]

    @property
    def mean_values(self) -> Floats:
        """The metric of each term, averaged over the seeds [terms]."""
        return mean_over_seeds(self.values)

    def chosen(self, method: str) -> NDArray[np.int64]:
        """Which term the method chooses in each seed [seeds]; of equal scores the first in the order of the terms."""
        return np.asarray(self.importance[method].argmax(axis=1), dtype=np.int64)


def mean_over_seeds(values: Floats) -> Floats:
    """The mean of values [seeds, terms] over the seeds, without the last digits, in which equal means can differ."""
    return np.asarray(values.mean(axis=0).round(12))


def cell_of(record: TermRecord) -> Cell:
    """The cell that a record belongs to."""
    return Cell(record.base, record.dataset, record.regime, record.learning_rate, record.epochs)


def arrange(
    records: Iterable[TermRecord],
    terms: Sequence[str] | None = None,
    *,
    exclude_inert: bool = True,
    measured: bool = True,
) -> list[CellTable]:
    """Sort records into cells, ordered by base, dataset, regime and settings.

    Args:
        terms: The candidates; None: every term that has an importance.
        exclude_inert: Leave out a term that is inert in any record of the cell. The paper's protocol does not.
        measured: Only terms and seeds with a value; otherwise ``values`` may hold NaN.

    Raises:
        InputError: No records; two of the same; a cell with several metrics; or a cell in which no term, or no seed
            with all of its terms, is left.
    """
    by_cell: dict[Cell, list[TermRecord]] = {}
    for record in check_records(records):
        by_cell.setdefault(cell_of(record), []).append(record)
    return [
        _arranged(cell, by_cell[cell], terms, exclude_inert, measured)
        for cell in sorted(by_cell, key=lambda cell: cell.order)
    ]


def _arranged(
    cell: Cell, records: list[TermRecord], terms: Sequence[str] | None, exclude_inert: bool, measured: bool
) -> CellTable:
    metrics = sorted({record.metric for record in records})
    if len(metrics) > 1:
        raise InputError(f"the records of {cell.text()} have several metrics: {', '.join(metrics)}")
    wanted = [record for record in records if record.importance and (terms is None or record.term in terms)]
    inert = {record.term for record in wanted if record.inert} if exclude_inert else set()
    wanted = [record for record in wanted if record.term not in inert and (record.value is not None or not measured)]
    by_key = {(record.seed, record.term): record for record in wanted}
    chosen_terms = terms_in_order({record.term for record in wanted})
    if not chosen_terms:
        left = f" ({', '.join(terms_in_order(inert))}: inert)" if inert else ""
        raise InputError(f"no bias term of {cell.text()} can be compared{left}: the records lack importance or value")
    all_seeds = sorted({record.seed for record in wanted})
    seeds = [seed for seed in all_seeds if all((seed, term) in by_key for term in chosen_terms)]
    if not seeds:
        raise InputError(f"no seed of {cell.text()} has a record for each of {', '.join(chosen_terms)}")
    grid = [[by_key[seed, term] for term in chosen_terms] for seed in seeds]
    dev = [[record.dev_value for record in row] for row in grid]
    importance, unable = {}, {}
    for method in sorted({method for row in grid for record in row for method in record.importance}):
        scores = [[record.importance.get(method) for record in row] for row in grid]
        missing = [term for at, term in enumerate(chosen_terms) for row in scores if row[at] is None]
        if missing:
            unable[method] = f"no score of {', '.join(terms_in_order(set(missing)))}"
        elif any(not any(row) for row in scores):
            unable[method] = "every candidate scores 0"
        else:
            importance[method] = np.array(scores, dtype=np.float64)
    return CellTable(
        cell=cell,
        metric=metrics[0],
        terms=tuple(chosen_terms),
        seeds=tuple(seeds),
        values=np.array([[_or_nan(record.value) for record in row] for row in grid]),
        dev_values=None if any(value is None for row in dev for value in row) else np.array(dev, dtype=np.float64),
        importance=importance,
        inert=tuple(terms_in_order(inert)),
        unable=unable,
        left_out=tuple(seed for seed in all_seeds if seed not in seeds),
    )


def varying(cells: Iterable[Cell]) -> tuple[str, ...]:
    """The fields in which cells differ; the dataset where they do not differ at all."""
    listed = list(cells)
    fields = tuple(field for field in FIELDS if len({getattr(cell, field) for cell in listed}) > 1)
    return fields or ("dataset",)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
