"""Recipes for the value biases compared over datasets and draws, without any test row: `make recipes`.

Each draw has its own train and dev rows. A few hundred rows of dev tell little, so every recipe is measured on rows
that are in no split as well: neither test nor gate nor the draw's own sample. What is finished is kept in runs/recipes
and not trained again. Writes benchmarks/recipes.json and .md.
"""

import argparse
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beft.adaptation import joined, labelled, train_terms
from beft.bank import Bank
from beft.datasets import Rows, load_split
from beft.datasets.prepared import SPLITS
from beft.device import resolve_compute
from beft.files import read_json, sha256_json, sha256_tree, write_json, write_text
from beft.measuring import predict_rows, score_rows
from beft.opened import open_classifier
from beft.settings import DatasetSettings, Settings
from benchmarks import machine
from benchmarks.intervals import Interval
from benchmarks.prepared import ROOT, prepared_data

HERE = Path(__file__).parent
SPARE = 2000
"""Rows of no split, a draw; fewer where a dataset has no more."""

DEFAULT = "the default: a random head at a twentieth of the biases' rate, mean pooling"
RECIPES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "a head that starts from logistic (of values: ridge) regression, one rate for all": {
        "head.init": "logistic_regression",
        "train.learning_rate": 0.005,
        "train.head_learning_rate": None,
        "train.warmup_fraction": 0.0,
        "train.dropout": True,
    },
    "the default, but a head as fast as the biases": {"train.head_learning_rate": None, "train.learning_rate": 0.005},
    "the default, its rate chosen on dev among 0.005, 0.01 and 0.02": {"train.learning_rates": [0.005, 0.01, 0.02]},
}
log = logging.getLogger("beft.recipes")

Found = dict[str, Any]


def measure(settings: Settings, dataset: str) -> Found:
    """Train the value biases; the chosen epoch's metric and loss on dev, and the metric on spare rows."""
    section = settings.datasets[dataset]
    with prepared_data(dataset, section.size, settings.split) as prepared:
        opened = open_classifier(settings, prepared, dataset)
        spare = labelled(opened.classifier, spare_rows(prepared, settings, dataset), section.max_length)
        sample, training = opened.sample(), opened.training(settings.train)
        result = train_terms(opened.classifier, sample, settings, training, ["value"])
    chosen = result.history[result.best_epoch - 1]
    with Bank(opened.classifier.model, result.deltas, result.head):
        predicted = predict_rows(opened.classifier, spare)
    return {
        "metric": opened.metric,
        "rows": {"train": len(sample.train), "dev": len(sample.dev or ()), "spare": len(spare)},
        "epochs": training.epochs,
        "epoch": result.best_epoch,
        "dev": chosen["dev_metric"],
        "dev_loss": chosen["dev_loss"],
        "spare": score_rows(opened.metric, predicted, spare),
    }


def spare_rows(prepared: Path, settings: Settings, dataset: str) -> Rows:
    """Rows that no split of the prepared data has: those of the largest sample that are not in this one."""
    own = {row for split in SPLITS for row in load_split(prepared, split).ids}
    with prepared_data(dataset, "all", settings.split) as everything:
        rows = joined(load_split(everything, "train"), load_split(everything, "dev"))
    return rows.select([at for at, row in enumerate(rows.ids) if row not in own][:SPARE])


def finished(dataset: str, recipe: str, draw: int, threads: int) -> Found:
    """What was measured before with the same settings and source, or is measured now."""
    settings = settings_of(dataset, RECIPES[recipe], draw, threads)
    asked = [settings.model_dump(mode="json"), SPARE, sha256_tree(ROOT / "beft", ".py")]
    path = ROOT / "runs" / "recipes" / f"{sha256_json(asked)[:16]}.json"
    if not path.exists():
        write_json(path, measure(settings, dataset))
    found: Found = read_json(path)
    return found


def settings_of(dataset: str, changes: Mapping[str, Any], draw: int, threads: int) -> Settings:
    """The default settings with a recipe's changes, for one dataset's low regime, one draw and its seed."""
    values = Settings(datasets={dataset: DatasetSettings()}).model_dump(mode="json")
    for name, value in {**changes, "seed": draw, "split.draw": draw, "base.threads": threads}.items():
        *parents, last = name.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Settings.from_mapping(values)


def gains(found: Mapping[str, Sequence[Found]], recipe: str) -> list[float]:
    """By how much the default is ahead of a recipe on the spare rows of each draw."""
    return [ours["spare"] - its["spare"] for ours, its in zip(found[DEFAULT], found[recipe], strict=True)]


def percent(values: Sequence[float]) -> str:
    """Shares in percent, for a table."""
    return ", ".join(f"{100 * value:.1f}" for value in values)


def table(dataset: str, found: Mapping[str, Sequence[Found]]) -> list[str]:
    """A dataset's recipes side by side, as Markdown."""
    first = found[DEFAULT][0]
    rows = first["rows"]
    lines = [
        f"## {dataset}: {first['metric']}, {rows['train']:,} rows to train on, {rows['dev']:,} of dev",
        "",
        "| recipe | epochs | dev | dev loss | spare rows | each draw | gain of the default |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, of_draws in found.items():
        spare = [one["spare"] for one in of_draws]
        ahead = gains(found, recipe)
        gain = Interval.of(ahead).percent("+") if recipe != DEFAULT and len(ahead) > 1 else ""
        lines.append(
            f"| {recipe} | {of_draws[0]['epochs']} | {100 * statistics.mean(one['dev'] for one in of_draws):.1f} "
            f"| {statistics.mean(one['dev_loss'] for one in of_draws):.3f} | {100 * statistics.mean(spare):.1f} "
            f"| {percent(spare)} | {gain} |"
        )
    return [*lines, ""]


def summary(found: Mapping[str, Mapping[str, Sequence[Found]]]) -> list[str]:
    """The default's gain over each recipe, over datasets: every dataset weighs the same."""
    lines = ["## Over the datasets", "", "| recipe | mean gain of the default, in points | ahead on |", "|---|---|---|"]
    for recipe in list(RECIPES)[1:]:
        means = [statistics.mean(gains(of_dataset, recipe)) for of_dataset in found.values()]
        ahead = sum(mean > 0 for mean in means)
        lines.append(f"| {recipe} | {100 * statistics.mean(means):+.1f} | {ahead} of {len(means)} |")
    return [*lines, ""]


def main() -> None:
    """Train every recipe on every draw of every dataset, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--datasets", nargs="+", default=["rotten_tomatoes"], help="those of a folder are in BEFT_DATA_DIR"
    )
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=Settings().base.threads)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, dict[str, list[Found]]] = {}
    for dataset in arguments.datasets:
        found[dataset] = {recipe: [] for recipe in RECIPES}
        for draw in range(arguments.draws):
            for recipe in RECIPES:
                one = finished(dataset, recipe, draw, arguments.threads)
                found[dataset][recipe].append(one)
                log.info("%s, draw %d: %s: %s", dataset, draw, recipe, one)
    compute = resolve_compute(Settings().base.model_copy(update={"threads": arguments.threads}))
    described = machine.describe(compute)
    record = {"command": "make recipes", "machine": described, "recipes": RECIPES, "datasets": found}
    write_json(HERE / "recipes.json", record)
    lines = [
        "# Recipes for the value biases",
        "",
        f"`make recipes`, {described['date']}; {described['cpu']}, {compute.precision}, {compute.threads} threads. "
        f"{arguments.draws} draws of the low regime of each dataset; dev chooses the epoch. Spare rows: up to "
        f"{SPARE:,} a draw that are in no split, neither test nor gate nor sample; the gain of the default on them is "
        "paired by draw, its interval 95 %, t. All values are percent, or hundredths of a correlation.",
        "",
    ]
    if len(found) > 1:
        lines += summary(found)
    for dataset, of_dataset in found.items():
        lines += table(dataset, of_dataset)
    write_text(HERE / "recipes.md", "\n".join(lines))
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
