"""Figure 1, figure 4 and section 3.4 of arXiv 2509.15974 from records: every analysis, its tables and its pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from beft.errors import InputError
from beft.files import write_json
from beft.studies.selection_analysis.agreement import agreement
from beft.studies.selection_analysis.cells import cell_of
from beft.studies.selection_analysis.figures.extension import draw_extension
from beft.studies.selection_analysis.figures.intervals import draw_agreement, draw_regret, draw_stability
from beft.studies.selection_analysis.figures.ranking import draw_figure1, draw_figure4
from beft.studies.selection_analysis.figures.transfer import draw_transfer
from beft.studies.selection_analysis.gaps import Gaps, gaps
from beft.studies.selection_analysis.ranks import Ranks, ranks
from beft.studies.selection_analysis.records import CANDIDATES, TermRecord, check_records
from beft.studies.selection_analysis.regret import regret
from beft.studies.selection_analysis.stability import stability
from beft.studies.selection_analysis.transfer import transfer
from beft.tables import Table


@dataclass(frozen=True)
class SelectionReport:
    """What one figure of the paper becomes.

    Attributes:
        name: figure1, figure4 or extension.
        tables: Name -> table.
        figures: Name -> a function that draws the figure to a path (.png, .svg or .pdf).
        results: Name -> the analysis as JSON values.
        left_out: Analysis -> why the records do not allow it.
    """

    name: str
    tables: Mapping[str, Table]
    figures: Mapping[str, Callable[[Path], None]]
    results: Mapping[str, Any]
    left_out: Mapping[str, str]

    def write(self, folder: Path) -> list[Path]:
        """Write tables (.md, .csv, .tex), figures (.png, .svg) and ``results.json``; returns the paths."""
        paths = []
        for name, table in self.tables.items():
            for suffix in (".md", ".csv", ".tex"):
                paths.append(folder / f"{name}{suffix}")
                table.write(paths[-1])
        for name, draw in self.figures.items():
            for suffix in (".png", ".svg"):
                paths.append(folder / f"{name}{suffix}")
                draw(paths[-1])
        paths.append(folder / "results.json")
        write_json(paths[-1], {**self.results, "left_out": dict(self.left_out)})
        return paths


def figure1(
    records: Iterable[TermRecord], *, candidates: Sequence[str] = CANDIDATES, exclude_inert: bool = True
) -> SelectionReport:
    """One dataset and regime: the rank of each term by every method against what it reaches.

    Args:
        records: Of one cell: every scored term in every seed; query, key and value with their metric.
        candidates: The terms among which a method chooses.
        exclude_inert: Rank and choose no inert term; the paper's protocol does.

    Raises:
        InputError: The records are of several cells, or no term was trained.
    """
    listed = check_records(records)
    cells = sorted({cell_of(record).text() for record in listed})
    if len(cells) > 1:
        raise InputError(f"figure 1 shows one dataset and regime, not {len(cells)}: {'; '.join(cells)}")
    return _rankings("figure1", listed, candidates, exclude_inert, draw_figure1)


def figure4(
    records: Iterable[TermRecord], *, candidates: Sequence[str] = CANDIDATES, exclude_inert: bool = True
) -> SelectionReport:
    """Datasets by regimes: the rank of each term against what it reaches, and every number that says how they agree.

    Args:
        records: Every scored term in every seed of every cell; query, key and value with their metric.
        candidates: The terms among which a method chooses.
        exclude_inert: Rank and choose no inert term; the paper's protocol does.

    Raises:
        InputError: No term was trained.
    """
    return _rankings("figure4", check_records(records), candidates, exclude_inert, draw_figure4)


def extension(
    records: Iterable[TermRecord],
    *,
    first: str = "value",
    second: str = "query",
    candidates: Sequence[str] = CANDIDATES,
    exclude_inert: bool = True,
) -> SelectionReport:
    """Section 3.4: learning rates and epochs against importance and metric, and selections transferred.

    Args:
        records: Records that say their learning rate or epochs, their dataset and base; records without importance
            (``all_biases``) are drawn beside the terms.
        first: The term that is expected to be the better one.
        second: The other one.
        candidates: The terms among which a method chooses.
        exclude_inert: Choose no inert term.
    """
    listed = check_records(records)
    parts = _Parts("extension")

    def trends() -> None:
        found = gaps(listed, first, second)
        parts.results["gaps"] = found.to_json()
        parts.tables["gaps"] = found.table()
        for method in found.overall:
            parts.tables[f"points_{method}"] = found.points_table(method)
            parts.figures[f"extension_{method}"] = partial(_draw_extension, found, method)

    def transferred() -> None:
        found = transfer(listed, candidates, exclude_inert=exclude_inert)
        parts.results["transfer"] = found.to_json()
        parts.tables["transfer"] = found.table()
        for method in found.methods:
            parts.tables[f"transfer_{method}"] = found.matrix_table(method)
        parts.figures["transfer"] = partial(draw_transfer, found)

    parts.attempt("gaps", trends)
    parts.attempt("transfer", transferred)
    return parts.report()


@dataclass
class _Parts:
    """What a report is put together from; an analysis that the records do not allow is left out with its reason."""

    name: str
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, analysis: Callable[[], None]) -> None:
        """Run one analysis."""
        try:
            analysis()
        except InputError as error:
            self.left_out[name] = str(error)

    def report(self) -> SelectionReport:
        """The finished report."""
        return SelectionReport(self.name, self.tables, self.figures, self.results, self.left_out)


def _rankings(
    name: str,
    records: list[TermRecord],
    candidates: Sequence[str],
    exclude_inert: bool,
    draw: Callable[[Ranks, Path], None],
) -> SelectionReport:
    parts = _Parts(name)
    ranked = ranks(records, candidates=candidates, exclude_inert=exclude_inert)
    if all(one.value is None for one in ranked.terms):
        raise InputError("no bias term was trained alone, so there is nothing to set its rank against")
    parts.results["ranks"] = ranked.to_json()
    parts.tables["ranks"] = ranked.table()
    parts.figures[name] = partial(draw, ranked)

    def stable() -> None:
        found = stability(records, candidates=candidates, exclude_inert=exclude_inert)
        parts.results["stability"] = found.to_json()
        parts.tables["stability"] = found.table()
        parts.figures["stability"] = partial(draw_stability, found)

    def agreed() -> None:
        found = agreement(records, candidates, exclude_inert=exclude_inert)
        parts.results["agreement"] = found.to_json()
        parts.tables["agreement"] = found.table()
        parts.figures["agreement"] = partial(draw_agreement, found)

    def regretted() -> None:
        found = regret(records, candidates, exclude_inert=exclude_inert)
        parts.results["regret"] = found.to_json()
        parts.tables["regret"] = found.table()
        parts.tables["regret_by_cell"] = found.cells_table()
        parts.figures["regret"] = partial(draw_regret, found)

    def followed() -> None:
        found = gaps(records, along=("dataset", "regime"))
        parts.results["gaps"] = found.to_json()
        parts.tables["gaps"] = found.table()

    parts.attempt("stability", stable)
    parts.attempt("agreement", agreed)
    parts.attempt("regret", regretted)
    if name == "figure4":
        parts.attempt("gaps", followed)
    return parts.report()


def _draw_extension(found: Gaps, method: str, path: Path) -> None:
    draw_extension(found, path, method=method)
