"""Every term against the two cheap baselines, on Rotten Tomatoes, over five seeds: `make study`.

Each seed draws its own sample (train and dev) and trains from its own seed; the 1,000 test rows are the same for all.
The settings are those of params.yaml. A seed that is finished is kept in runs/study and not trained again.
Writes benchmarks/quality/terms_on_rotten_tomatoes.json and .md.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from beft.bank.bank import Bank
from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.datasets.prepared import load_split, load_summary
from beft.evaluation.records import Cost
from beft.evaluation.scores import Method, evaluate_methods
from beft.files import read_json, sha256_json, sha256_tree, write_json, write_text
from beft.heads.logistic_regression import fit_logistic_regression, logistic_regression_head
from beft.inference.features import Floats, frozen_features, predict_probabilities
from beft.inference.runs import RunResult
from beft.models.base import load_classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import Settings
from beft.training.probe import run_probe
from beft.training.sample import make_sample, settings_of
from beft.training.target import train_terms
from benchmarks.common import machine
from benchmarks.common.prepared import prepared_data, settings_on_disk

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DATASET = "rotten_tomatoes"
TERMS = ("value", "query", "key")
BASELINES = ("head_only", "logistic_regression")
log = logging.getLogger("beft.study")


def one_seed(settings: Settings, seed: int) -> dict[str, Any]:
    """Train and predict every method for one seed; probabilities of the test rows by method, and what each cost."""
    settings = settings.model_copy(update={"seed": seed, "split": settings.split.model_copy(update={"draw": seed})})
    own = settings.datasets[DATASET]
    compute = resolve_compute(settings.base)
    set_threads(compute)
    with prepared_data(DATASET, own.size, settings.split) as prepared:
        facts = load_summary(prepared)
        rows = {split: load_split(prepared, split) for split in ("train", "dev", "test")}
    classifier = load_classifier(
        resolve_base(settings.base.source),
        facts["labels"],
        compute=compute,
        pooling=settings.head.pooling,
        seed=seed,
    )
    metric, classes = str(facts["metric"]), len(facts["labels"])
    sample = make_sample(classifier, rows["train"], rows["dev"], max_length=own.max_length, metric=metric)
    assert sample.dev is not None
    test = classifier.examples(rows["test"], own.max_length)
    training = settings_of(settings.train, settings, DATASET, len(sample.train))
    probabilities: dict[str, Floats] = {}
    costs: dict[str, Cost] = {}
    details: dict[str, Any] = {}

    parts = {"train": sample.train, "dev": sample.dev, "test": test}
    features = {split: frozen_features(classifier, part.encoded) for split, part in parts.items()}
    truth = (sample.train.labels, sample.dev.labels)
    regression = fit_logistic_regression(
        features["train"].pooled, truth[0], features["dev"].pooled, truth[1], classes=classes, metric=metric
    )
    start = logistic_regression_head(
        features["train"].head,
        truth[0],
        classes,
        seed,
        dev_features=features["dev"].head,
        dev_labels=truth[1],
        metric=metric,
    )
    head_only = fit_head_only(
        features["train"].head,
        truth[0],
        features["dev"].head,
        truth[1],
        classes=classes,
        metric=metric,
        search=HeadSearch.from_training(training),
        starts={"logistic_regression": start},
        seed=seed,
    )
    probabilities["logistic_regression"] = regression.probabilities(features["test"].pooled)
    probabilities["head_only"] = head_only.probabilities(features["test"].head)
    costs |= {"logistic_regression": regression.cost(), "head_only": head_only.cost()}

    def keep(name: str, result: RunResult) -> None:
        with Bank(classifier.model, result.deltas, result.head):
            probabilities[name] = predict_probabilities(classifier, test.encoded).double().numpy()
        numbers = [*result.deltas.values(), *result.head.values()]
        costs[name] = Cost(
            trainable_parameters=sum(value.numel() for value in numbers),
            seconds=result.seconds,
            bias_bytes=sum(delta.numel() * 4 for delta in result.deltas.values()),
            head_bytes=sum(value.numel() * 4 for value in result.head.values()),
        )
        accuracy = float((probabilities[name].argmax(-1) == test.labels).mean())
        details[name] = {"best_epoch": result.best_epoch, "history": result.history}
        log.info("seed %d: %s %.1f %% on test, %.0f s", seed, name, 100 * accuracy, result.seconds)

    probe_training = settings_of(settings.probe, settings, DATASET, len(sample.train))
    probe = run_probe(classifier, sample, settings, probe_training)
    keep("all_biases", probe.result)
    selection = probe.evidence.scores(settings).selection
    for term in TERMS:
        # The paper compares the terms as they are, so an inert one is trained as well: all that moves is its head.
        keep(term, train_terms(classifier, sample, settings, training, [term]))
    return {
        "seed": seed,
        "selected": selection.to_json(),
        "labels": test.labels.tolist(),
        "probabilities": {name: values.tolist() for name, values in probabilities.items()},
        "costs": {name: cost.model_dump(mode="json") for name, cost in costs.items()},
        "details": details,
        "compute": compute.to_json(),
    }


def main() -> None:
    """Run the seeds that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", type=int, help="run this seed alone and write no table")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    values = settings_on_disk()
    identity = sha256_json([values.model_dump(mode="json"), sha256_tree(ROOT / "beft", ".py")])[:16]
    folder = ROOT / "runs" / "study" / identity
    seeds = range(arguments.seeds) if arguments.only is None else [arguments.only]
    found = []
    for seed in seeds:
        path = folder / f"{seed}.json"
        if not path.exists():
            log.info("seed %d", seed)
            write_json(path, one_seed(values, seed))
        found.append(read_json(path))
    if arguments.only is None:
        write(values, found)


def write(settings: Settings, found: list[dict[str, Any]]) -> None:
    """The committed JSON and table."""
    names = ["value", "query", "key", "all_biases", *BASELINES]
    runs = {name: np.array([one["probabilities"][name] for one in found]) for name in names}
    costs = {
        name: Cost(
            **{
                **found[0]["costs"][name],
                "seconds": float(np.median([one["costs"][name]["seconds"] for one in found])),
            }
        )
        for name in names
    }
    evaluation = evaluate_methods(
        {name: Method({"test": runs[name]}, costs[name]) for name in names},
        {"test": found[0]["labels"]},
        target="value",
        baselines=[*BASELINES, "query", "key", "all_biases"],
        metrics=["accuracy"],
        settings=settings.evaluate,
    )
    described = {**machine.describe(resolve_compute(settings.base)), **found[0]["compute"]}
    selected = [one["selected"]["target"] for one in found]
    write_json(
        HERE / "terms_on_rotten_tomatoes.json",
        {
            "command": "make study",
            "machine": described,
            "settings": settings.model_dump(mode="json"),
            "seeds": [one["seed"] for one in found],
            "selected": selected,
            "importance": [one["selected"]["beside"] for one in found],
            "evaluation": evaluation.to_json(),
            "best_epochs": {
                name: [one["details"][name]["best_epoch"] for one in found] for name in found[0]["details"]
            },
        },
    )
    scores, gains = evaluation.splits["test"].scores, evaluation.splits["test"].gains
    lines = [
        "# Every term on Rotten Tomatoes, five seeds",
        "",
        f"`make study`, {described['date']}; {described['cpu']}, {described['threads']} threads, "
        f"{described['precision']}; torch {described['torch']}. 1,000 rows a seed (800 train, 200 dev chooses), "
        "1,000 test rows.",
        f"The selected term was {', '.join(selected)}. Intervals: {100 * evaluation.confidence:g} %, over test rows.",
        "",
        "| method | test accuracy | each seed | gain of value over it | trainable | seconds a seed |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(names, key=lambda name: -scores[name]["accuracy"].value):
        one = scores[name]["accuracy"]
        each = ", ".join(f"{100 * value:.1f}" for value in one.runs)
        gain = "" if name == "value" else _gain(gains[name]["accuracy"])
        lines.append(
            f"| {name} | {100 * one.value:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}] | {each} | {gain} "
            f"| {costs[name].trainable_parameters:,} | {costs[name].seconds:.0f} |"
        )
    write_text(HERE / "terms_on_rotten_tomatoes.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


def _gain(gain: Any) -> str:
    certain = "certain" if gain.certain else "not certain"
    return f"{100 * gain.difference:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {certain}"


if __name__ == "__main__":
    main()
