"""The table of merged biases in a reproduction, and the numbers of it that are shown first."""

from collections.abc import Mapping, Sequence
from typing import Any

from beft.studies.published.table import Published, PublishedScore
from beft.tables import Cell as TableCell
from beft.tables import Table
from tasks.reproduction.cells import Cells, mean_of
from tasks.reproduction.tables import Reasons, column_head, percent, published_text

SeedMerges = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""Base and regime -> ``merge.json`` of each seed."""


def merge_table(cells: Cells, merges: SeedMerges, published: Published) -> Table:
    """A row a base, regime and set of biases (none, each dataset's, each merged one), a column a dataset.

    Args:
        merges: ``merge.json`` of each seed, by base and regime; one may lack a dataset whose training failed.
    """
    outline = cells.outline
    datasets = list(outline.datasets)
    reasons = Reasons()
    rows: list[list[TableCell]] = []
    for (base, regime), of_seeds in merges.items():
        for name in _merged_rows(of_seeds):
            found = [_merged_values(of_seeds, name, dataset) for dataset in datasets]
            texts = [
                percent(mean_of(values)) if values else reasons.mark("its adapter could not be trained")
                for values in found
            ]
            rows.append(["measured", base, regime, name.replace("_", " "), *texts])
    for place, cell in cells.in_order:
        if (place.base, place.regime) not in merges and cell.reason is not None:
            texts = [reasons.mark(cell.reason) for _ in datasets]
            rows.append(["measured", place.base, place.regime, place.dataset, *texts])
    by_method: dict[tuple[str, str, str], dict[str, PublishedScore]] = {}
    for score in published.scores:
        by_method.setdefault((score.model, score.regime, score.method), {})[score.dataset] = score
    for (model, regime, method), by_dataset in by_method.items():
        scores = [published_text(by_dataset.get(dataset)) for dataset in datasets]
        rows.append(["published", model, regime, method.replace("_", " "), *scores])
    columns = ["from", "model", "regime", "biases", *(column_head(dataset, cells) for dataset in datasets)]
    keep = [at for at in range(len(columns)) if columns[at] != "regime" or len(outline.regimes) > 1]
    return Table(
        outline.title,
        [columns[at] for at in keep],
        [[row[at] for at in keep] for row in rows],
        notes=[*_notes_of_merges(cells, merges, published), *reasons.notes],
    )


def _notes_of_merges(cells: Cells, merges: SeedMerges, published: Published) -> list[str]:
    counts = sorted({len(of_seeds) for of_seeds in merges.values()}) or [0]
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    notes = [
        "Rows: whose value biases the base has, none its own. Columns: test metric in percent under the head that was "
        f"trained with the dataset's own biases (the paper's heads: not stated); mean over {seeds} seeds.",
    ]
    of_paper = "" if published.cosine is None else f" Published: {published.cosine:g}."
    for (base, regime), of_seeds in merges.items():
        cosines = [pair["cosine"] for one in of_seeds for pair in one["comparisons"] if pair["cosine"] is not None]
        if cosines:
            found = mean_of(cosines)
            ends = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
            where = f", {base} {regime}" if len(merges) > 1 else ""
            notes.append(f"Cosine of the two changes of the biases{where}: {found.value:.2f}{ends}.{of_paper}")
    return [*notes, f"Published: {published.source}; of another model."]


def merged_means(cells: Cells, merges: SeedMerges) -> dict[str, float]:
    """``DATASET/biases ROW`` -> the mean over seeds of the metric on test; base and regime where there are several."""
    outline = cells.outline
    means = {}
    for (base, regime), of_seeds in merges.items():
        for row in _merged_rows(of_seeds):
            for dataset in outline.datasets:
                names = [*([base] if len(outline.bases) > 1 else []), dataset]
                names += [regime] if len(outline.regimes) > 1 else []
                if values := _merged_values(of_seeds, row, dataset):
                    means["/".join([*names, f"biases {row}"])] = mean_of(values).value
    return means


def _merged_rows(of_seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sets of biases of any seed, those without a dataset of their own last."""
    rows = list(dict.fromkeys(row for one in of_seeds for row in one["rows"]))
    recipes = {row for one in of_seeds for row in one["recipes"]}
    return sorted(rows, key=lambda row: row in recipes)


def _merged_values(of_seeds: Sequence[Mapping[str, Any]], row: str, dataset: str) -> list[float]:
    """The metric of each seed that has the row and the dataset."""
    return [
        float(one["matrix"][dataset]["scores"][row][one["metrics"][dataset]]["value"])
        for one in of_seeds
        if row in one["rows"] and dataset in one["datasets"]
    ]
