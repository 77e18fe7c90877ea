"""Recipes for the value biases compared on dev alone, on Rotten Tomatoes, over five draws: `make recipes`.

Each draw has its own train and dev rows; nothing here reads the test and gate rows.
Writes benchmarks/recipes.json and .md.
"""

import argparse
import logging
import statistics
from pathlib import Path
from typing import Any

from beft.adaptation import train_terms
from beft.device import resolve_compute
from beft.files import write_json, write_text
from beft.opened import open_classifier
from beft.settings import Settings
from benchmarks import machine
from benchmarks.prepared import prepared_data

HERE = Path(__file__).parent
DATASET = "rotten_tomatoes"
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
    "the default, but the model's own pooler": {"head.pooling": "model"},
}
log = logging.getLogger("beft.recipes")


def on_dev(settings: Settings) -> dict[str, float]:
    """Train the value biases and give the chosen epoch's accuracy and cross-entropy on dev."""
    with prepared_data(DATASET, settings.datasets[DATASET].size, settings.split) as prepared:
        opened = open_classifier(settings, prepared, DATASET)
        result = train_terms(opened.classifier, opened.sample(), settings, opened.training(settings.train), ["value"])
    chosen = result.history[result.best_epoch - 1]
    return {"accuracy": chosen["dev_metric"], "cross_entropy": chosen["dev_loss"], "epoch": result.best_epoch}


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
        for recipe, changes in RECIPES.items():
            found[recipe].append(on_dev(settings_of(changes, draw, arguments.threads)))
            log.info("draw %d: %s: %s", draw, recipe, found[recipe][-1])
    base = Settings().base.model_copy(update={"threads": arguments.threads})
    described = machine.describe(resolve_compute(base))
    write_json(
        HERE / "recipes.json", {"command": "make recipes", "machine": described, "recipes": RECIPES, "dev": found}
    )
    lines = [
        "# Recipes for the value biases, compared on dev",
        "",
        f"`make recipes`, {described['date']}; {described['cpu']}. Rotten Tomatoes, {len(draws)} draws of 1,000 rows, "
        "800 to train on and 200 of dev; neither test nor gate was read.",
        "",
        "| recipe | dev accuracy | each draw | dev cross-entropy | each draw |",
        "|---|---|---|---|---|",
    ]
    for recipe, of_draws in found.items():
        accuracy = [100 * one["accuracy"] for one in of_draws]
        loss = [one["cross_entropy"] for one in of_draws]
        lines.append(
            f"| {recipe} | {statistics.mean(accuracy):.1f} | {', '.join(f'{one:.1f}' for one in accuracy)} "
            f"| {statistics.mean(loss):.3f} | {', '.join(f'{one:.3f}' for one in loss)} |"
        )
    write_text(HERE / "recipes.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
