"""Recipes for the value biases compared over datasets and draws, without any test row: `make recipes`.

Each draw has its own train and dev rows. A few hundred rows of dev tell little, so every recipe is measured on rows
that are in no split as well: neither test nor gate nor the draw's own sample. What is finished is kept in runs/recipes
and not trained again. Writes benchmarks/quality/recipes.json and .md.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beft.bank.bank import Bank
from beft.datasets.prepared import SPLITS, PreparedData, Rows, load_split
from beft.files import read_json, sha256_json, sha256_tree, write_json, write_text
from beft.inference.predictions import predict_rows, score_rows
from beft.models.device import resolve_compute
from beft.settings import DatasetSettings, Settings
from beft.training.learning_rates import best_trial
from beft.training.opening import open_session
from beft.training.sample import joined
from beft.training.target import train_terms
from benchmarks.common import machine
from benchmarks.common.intervals import Interval
from benchmarks.common.prepared import ROOT, prepared_data
from benchmarks.quality.recipe_studies import CHOSEN, EPOCHS_SHARE, STUDIES, Changes, Study, shared_epochs

HERE = Path(__file__).parent
log = logging.getLogger("beft.recipes")

Found = dict[str, Any]


def measure(settings: Settings, dataset: str, *, spare: int, train: bool, epochs_share: float | None = None) -> Found:
    """Train the value biases; the chosen epoch's metric and loss on dev, and the metric on spare rows.

    Args:
        epochs_share: The training takes so many of 8 epochs or 400 steps; None: as many as its settings say.
    """
    section = settings.datasets[dataset]
    with prepared_data(dataset, section.size, settings.split) as prepared:
        session = open_session(settings, PreparedData.from_folder(prepared))
        unseen = session.classifier.examples(spare_rows(prepared, settings, dataset, spare), section.max_length)
        sample, training = session.sample, session.training(settings.train)
        if epochs_share is not None:
            training = training.model_copy(update={"epochs": shared_epochs(epochs_share, len(sample.train))})
        result = train_terms(session.classifier, sample, settings, training, ["value"]) if train else None
    assert sample.dev is not None
    with Bank(session.classifier.model, result.deltas if result else {}, result.head if result else {}):
        predicted = predict_rows(session.classifier, unseen)
        on_dev = None if result else predict_rows(session.classifier, sample.dev)
    chosen = result.history[result.best_epoch - 1] if result else {}
    return {
        "metric": session.metric,
        "rows": {"train": len(sample.train), "dev": len(sample.dev), "spare": len(unseen)},
        "epochs": training.epochs if result else 0,
        "epoch": result.best_epoch if result else 0,
        "dev": score_rows(session.metric, on_dev, sample.dev) if on_dev is not None else chosen["dev_metric"],
        "dev_loss": chosen.get("dev_loss"),
        "spare": score_rows(session.metric, predicted, unseen),
    }


def spare_rows(prepared: Path, settings: Settings, dataset: str, most: int) -> Rows:
    """Rows that no split of the prepared data has: those of the largest sample that are not in this one."""
    own = {row for split in SPLITS for row in load_split(prepared, split).ids}
    with prepared_data(dataset, "all", settings.split) as everything:
        rows = joined(load_split(everything, "train"), load_split(everything, "dev"))
    return rows.select([at for at, row in enumerate(rows.ids) if row not in own][:most])


def finished(study: Study, dataset: str, recipe: str, draw: int, threads: int) -> Found:
    """What was measured before with the same settings and source, or is measured now."""
    changes = study.recipes[recipe]
    of_settings = {**study.common, **(changes or {})}
    epochs_share = of_settings.pop(EPOCHS_SHARE, None)
    settings = settings_of(dataset, of_settings, draw, threads, size=study.size)
    asked = [settings.model_dump(mode="json"), study.spare, epochs_share, sha256_tree(ROOT / "beft", ".py")]
    asked += ["untouched"] if changes is None else []
    path = ROOT / "runs" / "recipes" / f"{sha256_json(asked)[:16]}.json"
    if not path.exists():
        write_json(
            path, measure(settings, dataset, spare=study.spare, train=changes is not None, epochs_share=epochs_share)
        )
    found: Found = read_json(path)
    return found


def settings_of(dataset: str, changes: Changes, draw: int, threads: int, *, size: int | str = "low") -> Settings:
    """The default settings with a recipe's changes, for one dataset, one draw and its seed."""
    values = Settings(datasets={dataset: DatasetSettings()}).model_dump(mode="json")
    values["datasets"][dataset]["size"] = size
    for name, value in {**changes, "seed": draw, "split.draw": draw, "base.threads": threads}.items():
        *parents, last = name.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Settings.from_mapping(values)


def with_chosen(study: Study, found: Mapping[str, Sequence[Found]]) -> dict[str, Sequence[Found]]:
    """What was found, and the rate that each draw's dev rows choose, as ``train.learning_rates`` chooses it."""
    if not study.rates:
        return dict(found)
    by_draw = zip(*(found[recipe] for recipe in study.rates), strict=True)

    def best(ones: Sequence[Found]) -> Found:
        return ones[best_trial([{"dev_metric": one["dev"], "dev_loss": one["dev_loss"]} for one in ones])]

    return {**found, CHOSEN: [best(ones) for ones in by_draw]}


def gains(study: Study, found: Mapping[str, Sequence[Found]], recipe: str) -> list[float]:
    """By how much the default is ahead of a recipe on the spare rows of each draw."""
    return [ours["spare"] - its["spare"] for ours, its in zip(found[study.default], found[recipe], strict=True)]


def percent(values: Sequence[float]) -> str:
    """Shares in percent, for a table."""
    return ", ".join(f"{100 * value:.1f}" for value in values)


def table(study: Study, dataset: str, found: Mapping[str, Sequence[Found]]) -> list[str]:
    """A dataset's recipes side by side, as Markdown."""
    first = found[study.default][0]
    rows = first["rows"]
    lines = [
        f"## {dataset}: {first['metric']}, {rows['train']:,} rows to train on, {rows['dev']:,} of dev",
        "",
        "| recipe | epochs | dev | dev loss | spare rows | each draw | gain of the default |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, of_draws in found.items():
        spare = [one["spare"] for one in of_draws]
        losses = [one["dev_loss"] for one in of_draws if one["dev_loss"] is not None]
        ahead = gains(study, found, recipe)
        gain = Interval.of(ahead).percent("+") if recipe != study.default and len(ahead) > 1 else ""
        lines.append(
            f"| {recipe} | {of_draws[0]['epochs']} | {100 * statistics.mean(one['dev'] for one in of_draws):.1f} "
            f"| {f'{statistics.mean(losses):.3f}' if losses else '-'} | {100 * statistics.mean(spare):.1f} "
            f"| {percent(spare)} | {gain} |"
        )
    return [*lines, ""]


def summary(study: Study, found: Mapping[str, Mapping[str, Sequence[Found]]]) -> list[str]:
    """The default's gain over each recipe, over datasets: every dataset weighs the same."""
    lines = ["## Over the datasets", "", "| recipe | mean gain of the default, in points | ahead on |", "|---|---|---|"]
    for recipe in study.others:
        means = [statistics.mean(gains(study, of_dataset, recipe)) for of_dataset in found.values()]
        ahead = sum(mean > 0 for mean in means)
        lines.append(f"| {recipe} | {100 * statistics.mean(means):+.1f} | {ahead} of {len(means)} |")
    return [*lines, ""]


def main() -> None:
    """Train every recipe on every draw of every dataset, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", choices=list(STUDIES), default="recipes")
    parser.add_argument("--datasets", nargs="+", help="those of a folder are in BEFT_DATA_DIR")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=Settings().base.threads)
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measured: dict[str, dict[str, list[Found]]] = {}
    for dataset in arguments.datasets or study.datasets:
        measured[dataset] = {recipe: [] for recipe in study.recipes}
        for draw in range(arguments.draws):
            for recipe in study.recipes:
                one = finished(study, dataset, recipe, draw, arguments.threads)
                measured[dataset][recipe].append(one)
                log.info("%s, draw %d: %s: %s", dataset, draw, recipe, one)
    compute = resolve_compute(Settings().base.model_copy(update={"threads": arguments.threads}))
    described = machine.describe(compute)
    command = f'make recipes ARGS="{" ".join(sys.argv[1:])}"'
    record = {
        "command": command,
        "machine": described,
        "common": study.common,
        "size": study.size,
        "recipes": study.recipes,
        "datasets": measured,
    }
    write_json(HERE / f"{arguments.study}.json", record)
    lines = [
        f"# {study.title}",
        "",
        f"`{command}`, {described['date']}; {described['cpu']}, {compute.precision}, {compute.threads} threads.",
        f"{study.note} {arguments.draws} draws of each dataset; dev chooses the epoch. Spare rows: up to "
        f"{study.spare:,} a draw that are in no split, neither test nor gate nor sample; the gain of the default on "
        "them is paired by draw, its interval 95 %, t. All values are percent, or hundredths of a correlation.",
        "",
    ]
    found = {dataset: with_chosen(study, of_dataset) for dataset, of_dataset in measured.items()}
    if len(found) > 1:
        lines += summary(study, found)
    for dataset, of_dataset in found.items():
        lines += table(study, dataset, of_dataset)
    write_text(HERE / f"{arguments.study}.md", "\n".join(lines))
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
