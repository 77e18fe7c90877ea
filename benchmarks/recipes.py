"""Recipes for the value biases compared on Rotten Tomatoes, over five draws, without its test rows: `make recipes`.

Each draw has its own train and dev rows. 200 rows of dev tell little, so every recipe is measured on rows that are in
no split as well: neither test nor gate nor the draw's own sample. What is finished is kept in runs/recipes and not
trained again. Writes benchmarks/recipes.json and .md.
"""

import argparse
import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from beft.adaptation import joined, labelled, train_terms
from beft.bank import Bank
from beft.datasets import Rows, load_split
from beft.datasets.prepared import SPLITS
from beft.device import resolve_compute
from beft.features import predict_probabilities
from beft.files import read_json, sha256_json, sha256_tree, write_json, write_text
from beft.opened import open_classifier
from beft.settings import Settings
from benchmarks import machine
from benchmarks.intervals import Interval
from benchmarks.prepared import ROOT, prepared_data

HERE = Path(__file__).parent
DATASET = "rotten_tomatoes"
SPARE = 2000
"""Rows of no split, a draw."""

RECIPES: dict[str, dict[str, Any]] = {
    "the default: a random head at a twentieth of the biases' rate, mean pooling": {},
    "a head that starts from logistic regression, one rate for all": {
        "head.init": "logistic_regression",
        "train.epochs": 4,
        "train.learning_rate": 0.005,
        "train.head_learning_rate": None,
        "train.warmup_fraction": 0.0,
        "train.dropout": True,
    },
    "the default, but a head as fast as the biases": {"train.head_learning_rate": None, "train.learning_rate": 0.005},
}
log = logging.getLogger("beft.recipes")


def measure(settings: Settings) -> dict[str, float]:
    """Train the value biases; the chosen epoch's accuracy and cross-entropy on dev, and accuracy on spare rows."""
    section = settings.datasets[DATASET]
    with prepared_data(DATASET, section.size, settings.split) as prepared:
        opened = open_classifier(settings, prepared, DATASET)
        spare = labelled(opened.classifier, spare_rows(prepared, settings), section.max_length)
        result = train_terms(opened.classifier, opened.sample(), settings, opened.training(settings.train), ["value"])
    chosen = result.history[result.best_epoch - 1]
    with Bank(opened.classifier.model, result.deltas, result.head):
        predicted = predict_probabilities(opened.classifier, spare.encoded).numpy().argmax(-1)
    return {
        "dev_accuracy": chosen["dev_metric"],
        "dev_cross_entropy": chosen["dev_loss"],
        "epoch": result.best_epoch,
        "spare_accuracy": float((predicted == spare.labels).mean()),
    }


def spare_rows(prepared: Path, settings: Settings) -> Rows:
    """Rows that no split of the prepared data has: those of the largest sample that are not in this one."""
    own = {row for split in SPLITS for row in load_split(prepared, split).ids}
    with prepared_data(DATASET, "all", settings.split) as everything:
        rows = joined(load_split(everything, "train"), load_split(everything, "dev"))
    chosen = [at for at, row in enumerate(rows.ids) if row not in own][:SPARE]
    return replace(
        rows,
        ids=[rows.ids[at] for at in chosen],
        texts=[rows.texts[at] for at in chosen],
        labels=[rows.labels[at] for at in chosen],
    )


def finished(recipe: str, draw: int, threads: int) -> dict[str, float]:
    """What was measured before with the same settings and source, or is measured now."""
    settings = settings_of(RECIPES[recipe], draw, threads)
    asked = [settings.model_dump(mode="json"), SPARE, sha256_tree(ROOT / "beft", ".py")]
    path = ROOT / "runs" / "recipes" / f"{sha256_json(asked)[:16]}.json"
    if not path.exists():
        write_json(path, measure(settings))
    found: dict[str, float] = read_json(path)
    return found


def settings_of(changes: dict[str, Any], draw: int, threads: int) -> Settings:
    """The settings of params.yaml with a recipe's changes, for one draw and its seed."""
    values = Settings().model_dump(mode="json")
    for name, value in {**changes, "seed": draw, "split.draw": draw, "base.threads": threads}.items():
        *parents, last = name.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Settings.from_mapping(values)


def percent(values: Sequence[float]) -> str:
    """Shares in percent, for a table."""
    return ", ".join(f"{100 * value:.1f}" for value in values)


def main() -> None:
    """Train every recipe on every draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=Settings().base.threads)
    arguments = parser.parse_args()
    draws = range(arguments.draws)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
    for draw in draws:
        for recipe in RECIPES:
            found[recipe].append(finished(recipe, draw, arguments.threads))
            log.info("draw %d: %s: %s", draw, recipe, found[recipe][-1])
    base = Settings().base.model_copy(update={"threads": arguments.threads})
    described = machine.describe(resolve_compute(base))
    write_json(
        HERE / "recipes.json", {"command": "make recipes", "machine": described, "recipes": RECIPES, "draws": found}
    )
    lines = [
        "# Recipes for the value biases",
        "",
        f"`make recipes`, {described['date']}; {described['cpu']}, {described['threads']} threads. Rotten Tomatoes, "
        f"{len(draws)} draws of 1,000 rows, 800 to train on and 200 of dev, which chooses the epoch. Spare rows: "
        f"{SPARE:,} a draw that are in no split, neither test nor gate nor sample; the gain of the default is paired "
        "by draw, its interval 95 %, t.",
        "",
        "| recipe | dev accuracy | each draw | dev cross-entropy | spare rows | each draw | gain of the default |",
        "|---|---|---|---|---|---|---|",
    ]
    default = [one["spare_accuracy"] for one in next(iter(found.values()))]
    for recipe, of_draws in found.items():
        dev, spare = ([one[name] for one in of_draws] for name in ("dev_accuracy", "spare_accuracy"))
        loss = statistics.mean(one["dev_cross_entropy"] for one in of_draws)
        gains = [one - other for one, other in zip(default, spare, strict=True)]
        gain = Interval.of(gains).percent("+") if any(gains) else ""
        lines.append(
            f"| {recipe} | {100 * statistics.mean(dev):.1f} | {percent(dev)} | {loss:.3f} "
            f"| {100 * statistics.mean(spare):.1f} | {percent(spare)} | {gain} |"
        )
    write_text(HERE / "recipes.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
