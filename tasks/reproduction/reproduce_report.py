"""reproduce_report: the tables, the figure and the analysis of a reproduction, beside what was published."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from beft.errors import InputError
from beft.files import read_json, write_json, write_text
from beft.studies.published.table import Published, published
from beft.studies.selection_analysis.cells import arrange, cell_of
from beft.studies.selection_analysis.records import TermRecord
from beft.studies.selection_analysis.reports import SelectionReport, extension, figure1, figure4
from tasks.engine.declaration import JSON, Step
from tasks.reproduction.cells import CellKey, Cells, ReportPlan, gather, merge_place, term_records
from tasks.reproduction.figures import draw_scores
from tasks.reproduction.measured import Measurement
from tasks.reproduction.merge_tables import merge_table, merged_means
from tasks.reproduction.tables import cost_table, long_table, wide_table
from tasks.settings import PipelineSettings

log = logging.getLogger("tasks")

PLAN = "plan.json"
_MAIN_FIGURES = {
    "figure1": ("figure1", "figure4"),
    "figure4": ("figure4",),
    "extension": ("extension_projection_ratio",),
}
"""The pictures of the analysis that are the figure itself; the first that there is counts (Figure 1 shows one cell)."""


def reproduce_report(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write ``table.md``, ``.csv``, ``.tex``, ``figure.png``, ``.svg``, ``report.json`` and the folder ``analysis``.

    Args:
        inputs: ``plan``: the folder of the outline; ``MEASURE/…``: those of the measurements.
    """
    outline = ReportPlan.model_validate(read_json(inputs["plan"] / PLAN))
    found = {key: Measurement.load(folder) for key, folder in inputs.items() if key in outline.measurements}
    published_scores = published(outline.name)
    cells = gather(outline, found, published_scores)
    merges: dict[tuple[str, str], list[Any]] = {}
    for key in outline.merges:
        merges.setdefault(merge_place(key), []).append(read_json(inputs[key] / "merge.json"))
    tables = [wide_table(cells, published_scores), cost_table(cells, published_scores)]
    if outline.merges:
        tables[0] = merge_table(cells, merges, published_scores)
    records = term_records(cells)
    analysis = _analysis(records, outline)
    write_text(out / "table.md", "\n".join(table.to_markdown() for table in tables))
    write_text(out / "table.tex", "\n".join(table.to_latex() for table in tables))
    long_table(cells, published_scores).write(out / "table.csv")
    if analysis is not None:
        analysis.write(out / "analysis")
    _draw(outline, cells, published_scores, analysis, out)
    headline = _headline(cells) | merged_means(cells, merges)
    write_json(
        out / "report.json",
        {
            "plan": outline.model_dump(mode="json"),
            "tables": [table.to_json() for table in tables],
            "analysis": dict(analysis.results) if analysis else {},
            "analysis_not_possible": dict(analysis.left_out) if analysis else {},
            "choices": _choices(cells, published_scores),
            "headline": headline,
            "merges": [one for of_seeds in merges.values() for one in of_seeds],
            "term_records": [record.to_json() for record in records],
        },
    )
    return {"headline": headline, "cells": len(cells.measured), "missing": len(cells.by_key) - len(cells.measured)}


def _draw(
    outline: ReportPlan, cells: Cells, published_scores: Published, analysis: SelectionReport | None, out: Path
) -> None:
    drawn = analysis.figures if analysis else {}
    for name in _MAIN_FIGURES.get(outline.name, ()):
        if name in drawn:
            for kind in ("png", "svg"):
                drawn[name](out / f"figure.{kind}")
            return
    draw_scores(cells, published_scores, out)


def _analysis(records: list[TermRecord], outline: ReportPlan) -> SelectionReport | None:
    """The analysis of the selections; none where there is nothing scored and trained."""
    if not any(record.importance and record.value is not None for record in records):
        return None
    exclude_inert = outline.protocol != "paper"
    try:
        scored = _comparable([record for record in records if record.importance], exclude_inert)
        if outline.name == "extension":
            unscored = [record for record in records if not record.importance]
            return extension([*scored, *unscored], exclude_inert=exclude_inert)
        cells = {(record.base, record.dataset, record.regime) for record in scored}
        if len(cells) == 1 and outline.name != "figure4":
            return figure1(scored, exclude_inert=exclude_inert)
        return figure4(scored, exclude_inert=exclude_inert)
    except InputError as error:
        log.warning("no analysis of the selections: %s", error)
        return None


def _comparable(records: list[TermRecord], exclude_inert: bool) -> list[TermRecord]:
    """The records of the cells that can be compared: where too many runs failed there is no seed with every term."""
    by_cell: dict[Any, list[TermRecord]] = {}
    for record in records:
        by_cell.setdefault(cell_of(record), []).append(record)
    kept: list[TermRecord] = []
    for of_cell in by_cell.values():
        try:
            arrange(of_cell, exclude_inert=exclude_inert)
        except InputError as error:
            log.warning("left out of the analysis: %s", error)
            continue
        kept += of_cell
    return kept


def _choices(cells: Cells, published_scores: Published) -> list[dict[str, Any]]:
    """What each importance method ranked first in each cell here, seed by seed, and what was published of it.

    An inert term is never first, except under the paper's protocol, which knows of none.
    """
    told = {(one.dataset, one.regime, one.by): one.selected for one in published_scores.choices}
    first: dict[tuple[CellKey, str], dict[int, tuple[float, str]]] = {}
    for place, cell in cells.measured.items():
        for record in cell.records:
            if record.inert and cells.outline.protocol != "paper":
                continue
            for by, score in (record.importance or {}).items():
                seen = first.setdefault((replace(place, method=""), by), {})
                if score is not None and score > seen.get(record.seed, (float("-inf"), ""))[0]:
                    seen[record.seed] = (score, record.method)
    return [
        {
            "base": place.base,
            "dataset": place.dataset,
            "regime": place.regime,
            "learning_rate": place.learning_rate,
            "epochs": place.epochs,
            "by": by,
            "first": [seen[seed][1] for seed in sorted(seen)],
            "published_first": told.get((place.dataset, place.regime, by)),
        }
        for (place, by), seen in first.items()
    ]


def _headline(cells: Cells) -> dict[str, float]:
    """``BASE/DATASET/REGIME/METHOD`` -> the mean of the metric on test."""
    several = len(cells.outline.bases) > 1
    found = {}
    for place, cell in cells.measured.items():
        names = [*([place.base] if several else []), place.dataset, place.regime, place.method]
        names += [] if place.learning_rate is None else [f"lr {place.learning_rate:g}"]
        names += [] if place.epochs is None else [f"{place.epochs} epochs"]
        found["/".join(names)] = cell.estimate(cells.metrics[place.dataset]).value
    return found


reproduce_report_step = Step(reproduce_report, per_dataset=False)
