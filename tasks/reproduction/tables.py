"""The tables of a reproduction: what was measured, and below it, in rows of its own, what was published.

A wide one as papers print it, with a reason where a cell is empty, and a long one with a line a number, for machines.
"""

from collections.abc import Iterable, Iterator, Sequence

from beft.comparison.registry import METHODS, Kind
from beft.studies.published.table import AVERAGE, Published, PublishedScore
from beft.tables import Cell as TableCell
from beft.tables import ScoreInterval, Table
from tasks.reporting.formatting import title
from tasks.reproduction.cells import Cell, CellKey, Cells, mean_of

DAGGER = "\N{DAGGER}"
_METRIC_TITLES = {"matthews": "Matthews", "f1": "F1", "macro_f1": "macro F1"}


def wide_table(cells: Cells, published: Published) -> Table:
    """A row a base, regime, setting and method, a column a dataset, in percent; the published rows come last."""
    outline = cells.outline
    several = len(outline.datasets) > 1 or all(score.dataset == AVERAGE for score in published.scores)
    datasets = [*outline.datasets, *([AVERAGE] if several else [])]
    reasons = Reasons()
    rows: list[list[TableCell]] = []
    bold: set[tuple[int, int]] = set()
    for block in _blocks(cells):
        first = len(rows)
        means: list[dict[int, float]] = []
        for method in outline.methods:
            of_row = [cells.at(_place(block, dataset, method)) for dataset in outline.datasets]
            texts: list[TableCell] = []
            values: dict[int, float] = {}
            for at, (dataset, cell) in enumerate(zip(outline.datasets, of_row, strict=True)):
                texts.append(_text(cell, cells.metrics.get(dataset), reasons))
                if cell.records:
                    values[at] = cell.estimate(cells.metrics[dataset]).value
            if several:
                average = _average(of_row, [cells.metrics.get(dataset) for dataset in outline.datasets])
                texts.append(None if average is None else percent(average))
            means.append(values)
            rows.append(["measured", block.base, block.regime, *_setting(block), title(method), _share(of_row), *texts])
        bold |= _best(means, first, 6)
    for score_row in _published_rows(published, outline.regimes, datasets):
        rows.append(score_row)
    heads = [column_head(dataset, cells) for dataset in datasets]
    columns = ["from", "model", "regime", "setting", "method", "trained", *heads]
    keep = [at for at in range(len(columns)) if columns[at] != "setting" or any(row[at] for row in rows)]
    place_of = {old: new for new, old in enumerate(keep)}
    return Table(
        title=outline.title,
        columns=[columns[at] for at in keep],
        rows=[[row[at] for at in keep] for row in rows],
        notes=[*_notes(cells, published), *reasons.notes],
        bold=frozenset((row, place_of[column]) for row, column in bold),
    )


def cost_table(cells: Cells, published: Published) -> Table:
    """A row a base and method: trained parameters, seconds and the metric, as Table 2 of the paper has them."""
    rows: list[list[TableCell]] = []
    reasons = Reasons()
    for place, cell in cells.in_order:
        where = [place.base, place.dataset, place.regime, *_setting(place), title(place.method)]
        if not cell.records:
            rows.append(["measured", *where, None, None, None, reasons.mark(str(cell.reason))])
            continue
        record = cell.records[0]
        seconds = cell.seconds
        memory = [one.cost.peak_memory_bytes for one in cell.records if one.cost and one.cost.peak_memory_bytes]
        text = None if seconds is None else _seconds(seconds) + ("" if cell.alone else " (shared pass)")
        metric = cells.metrics[place.dataset]
        rows.append(
            [
                "measured",
                *where,
                f"{record.trained_parameters:,} ({_share([cell])})",
                text,
                f"{max(memory) / 1e6:,.0f} MB" if memory else None,
                percent(cell.estimate(metric)),
            ]
        )
    for score in published.scores:
        if score.seconds is None:
            continue  # no cost was published of it
        spread = "" if score.spread is None else f" ± {100 * score.spread:.2f}"
        share = None if score.share is None else _as_share(score.share)
        time = f"{score.seconds:.1f} s"
        value = f"{100 * score.value:.2f}{spread}"
        where = [score.model, score.dataset, score.regime, "", title(score.method)]
        rows.append(["published", *where, share, time, None, value])
    columns = ["from", "model", "dataset", "regime", "setting", "method", "trained", "training", "peak memory", "test"]
    keep = [at for at in range(len(columns)) if columns[at] != "setting" or any(row[at] for row in rows)]
    device = "" if published.device is None else f" Published times: {published.device}."
    return Table(
        f"{cells.outline.title}: parameters, time and memory",
        [columns[at] for at in keep],
        [[row[at] for at in keep] for row in rows],
        notes=[
            "Time and memory are those of one run where it was trained alone; of runs that shared a pass the time is "
            "a share by steps, and the memory that of the pass; an interrupted one has no time. "
            f"Without the head's parameters.{device}",
            *reasons.notes,
        ],
    )


def long_table(cells: Cells, published: Published) -> Table:
    """A line a number, in full: measured ones with their interval and seeds, published ones, and what is missing."""
    columns = (
        "from", "source", "model", "dataset", "regime", "method", "learning rate", "epochs", "metric", "value", "seeds",
        "selected in", "trained parameters", "model parameters", "seconds", "trained alone", "reason",
    )  # fmt: skip
    rows: list[list[TableCell]] = []
    for place, cell in cells.in_order:
        where: list[TableCell] = [place.base, place.dataset, place.regime, place.method]
        source = cells.outline.bases.get(place.base, place.base)
        if not cell.records:
            rows.append(["missing", source, *where, *[None] * 10, cell.reason])
            continue
        first = cell.records[0]
        for metric in first.scores:
            seconds = cell.seconds
            rows.append(
                [
                    "measured",
                    source,
                    *where,
                    _of_all(record.learning_rate for record in cell.records),
                    _of_all(record.epochs for record in cell.records),
                    metric,
                    cell.estimate(metric),
                    len(cell.records),
                    cell.selected,
                    first.trained_parameters,
                    first.model_parameters,
                    None if seconds is None else seconds.value,
                    "yes" if cell.alone else "no",
                    "; ".join(cell.failed) or None,
                ]
            )
    for score in published.scores:
        spread = "" if score.spread is None else f"standard deviation over runs {score.spread:g}"
        rows.append(
            [
                "published",
                published.source,
                score.model,
                score.dataset,
                score.regime,
                score.method,
                None,
                None,
                score.metric,
                ScoreInterval(score.value),
                None,
                float(score.selected) if score.selected else None,
                None,
                None,
                score.seconds,
                None,
                spread or None,
            ]
        )
    return Table(cells.outline.title, columns, rows)


def _of_all(numbers: Iterable[float | None]) -> TableCell:
    """The number of every run; all of them as a text where dev chose another one in each seed."""
    found = dict.fromkeys(numbers)
    return next(iter(found)) if len(found) == 1 else "; ".join(f"{one:g}" for one in found if one is not None)


class Reasons:
    """Numbers for the reasons of empty cells, and the notes that spell them out."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, reason: str) -> str:
        """What points at the reason's note."""
        return f"({self._numbers.setdefault(reason, len(self._numbers) + 1)})"

    def mark(self, reason: str) -> str:
        """What stands in an empty cell."""
        return f"not measured {self.number(reason)}"

    @property
    def notes(self) -> list[str]:
        """One note a reason."""
        return [f"({number}) {' '.join(reason.split())}" for reason, number in self._numbers.items()]


def _blocks(cells: Cells) -> Iterator[CellKey]:
    """Bases, regimes and settings, each with a row for every method; dataset and method are left open."""
    for base in cells.outline.bases:
        for regime in cells.outline.regimes:
            for rate, epochs in cells.settings:
                yield CellKey(base, "", regime, "", rate, epochs)


def _place(block: CellKey, dataset: str, method: str) -> CellKey:
    return CellKey(block.base, dataset, block.regime, method, block.learning_rate, block.epochs)


def _text(cell: Cell, metric: str | None, reasons: Reasons) -> str:
    if not cell.records:
        return reasons.mark(cell.reason or "it was not asked for in this setting")
    mark = DAGGER if cell.selected is not None and cell.selected > 0.5 else ""
    lost = f" {reasons.number('; '.join(cell.failed))}" if cell.failed else ""
    return percent(cell.estimate(metric)) + mark + lost


def percent(estimate: ScoreInterval) -> str:
    """A score in percent, with its interval where it has one."""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _seconds(estimate: ScoreInterval) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.1f} s"
    return f"{estimate.value:.1f} s [{max(0.0, estimate.low):.1f}, {estimate.high:.1f}]"


def _share(of_row: Sequence[Cell]) -> str | None:
    shares = [record.share for cell in of_row for record in cell.records]
    return _as_share(shares[0]) if shares else None


def _as_share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _setting(place: CellKey) -> list[str]:
    parts = [] if place.learning_rate is None else [f"lr {place.learning_rate:g}"]
    parts += [] if place.epochs is None else [f"{place.epochs} epochs"]
    return [", ".join(parts)]


def _average(of_row: Sequence[Cell], metrics: Sequence[str | None]) -> ScoreInterval | None:
    """The mean over datasets, seed by seed, where every dataset has the same seeds; else nothing."""
    values = [cell.values(metric) for cell, metric in zip(of_row, metrics, strict=True) if cell.records]
    if len(values) < len(of_row) or len({tuple(sorted(by_seed)) for by_seed in values}) != 1:
        return None
    return mean_of([sum(by_seed[seed] for by_seed in values) / len(values) for seed in sorted(values[0])])


def _best(means: Sequence[dict[int, float]], first_row: int, first_column: int) -> set[tuple[int, int]]:
    """The highest mean of each column among the rows of a block, where there are two or more."""
    found = set()
    for column in {at for row in means for at in row}:
        there = [(row[column], number) for number, row in enumerate(means) if column in row]
        if len(there) > 1:
            best = max(value for value, _ in there)
            found |= {(first_row + number, first_column + column) for value, number in there if value == best}
    return found


def column_head(dataset: str, cells: Cells) -> str:
    """The head of a dataset's column: its name, and its metric where that is known."""
    metric = cells.metrics.get(dataset)
    if metric is None:
        return dataset
    return f"{dataset} ({_METRIC_TITLES.get(metric, metric.replace('_', ' '))})"


def _published_rows(published: Published, regimes: Sequence[str], datasets: Sequence[str]) -> Iterator[list[TableCell]]:
    """The published numbers of the regimes that were asked for, where they were published; else all of them."""
    found: dict[tuple[str, str, str], dict[str, PublishedScore]] = {}
    wanted = [score for score in published.scores if score.regime in regimes] or list(published.scores)
    for score in wanted:
        found.setdefault((score.model, score.regime, score.method), {})[score.dataset] = score
    for (model, regime, method), by_dataset in found.items():
        share = next((_as_share(score.share) for score in by_dataset.values() if score.share is not None), None)
        texts = [published_text(by_dataset.get(dataset)) for dataset in datasets]
        if any(texts):
            yield ["published", model, regime, "", title(method), share, *texts]


def published_text(score: PublishedScore | None) -> str | None:
    """A published score in percent, marked where it was selected; None where there is none."""
    return None if score is None else f"{100 * score.value:.1f}{DAGGER if score.selected else ''}"


def _notes(cells: Cells, published: Published) -> list[str]:
    outline = cells.outline
    seeds = sorted({len(cell.records) for cell in cells.measured.values()}) or [0]
    counted = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
    counted += " seed" if seeds == [1] else " seeds"
    interval = ", with Student's t interval (95 %) over seeds" if seeds[-1] > 1 else ""
    rows = {
        f"{place.dataset} {place.regime}: {', '.join(f'{count:,} {split}' for split, count in first.rows.items())}": 1
        for place, cell in cells.measured.items()
        if (first := cell.records[0])
    }
    protocol = {
        "beft": "Protocol beft: each seed has its own draw of the sample, the epoch is chosen on dev.",
        "paper": "Protocol paper: one sample, trained on whole, the last epoch counts; only the seed differs.",
    }[outline.protocol]
    return [
        f"Measured: test metric in percent, mean over {counted}{interval}. {protocol}{_note_of_rates(cells)}",
        f"Rows: {'; '.join(rows)}.",
        f"{DAGGER}: the term that the importance selects (in more than half of the seeds, where measured).",
        f"Published: {published.source}; other models, samples and machines than the measured rows, for comparison.",
    ]


def _note_of_rates(cells: Cells) -> str:
    """How the learning rates came about, where methods that train weights stand beside bias terms."""
    records = [record for cell in cells.measured.values() for record in cell.records]
    if cells.outline.protocol == "paper" or not any(METHODS[record.method] is Kind.WEIGHTS for record in records):
        return ""
    tried = max(len(record.trials) for record in records)
    if not tried:
        return " Each method has one learning rate, which was not searched."
    return f" The learning rate of each run is the best on dev of up to {tried}; its seconds are those of all of them."
