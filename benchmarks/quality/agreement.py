"""Whether the engine costs accuracy: five seeds in one pass against a plain loop, one run at a time: `make agreement`.

Both sides train the value biases and the head on the same rows with the settings of params.yaml, from the same head a
seed, to the last epoch on the whole sample; each shuffles the rows in its own way. SST-2 and RTE are read from the
folder that BEFT_DATA_DIR names, and skipped without it. A dataset that is finished is kept in runs/agreement and not
trained again. Writes benchmarks/quality/agreement.json and .md.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.datasets.prepared import load_split, load_summary
from beft.datasets.reading.local import VARIABLE
from beft.files import read_json, sha256_file, sha256_json, sha256_tree, write_json, write_text
from beft.inference.features import predict_probabilities
from beft.inference.runs import LabelledRows, Run, finished
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import DatasetSettings, Settings
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.sample import DevMetric, make_sample, settings_of
from benchmarks.common import machine
from benchmarks.common.glue import GLUE, glue_data, glue_identity, is_here
from benchmarks.common.intervals import CONFIDENCE, Interval
from benchmarks.common.plain_loop import train_plainly
from benchmarks.common.prepared import ROOT, prepared_data, settings_on_disk

HERE = Path(__file__).parent
PLAIN_LOOP = ROOT / "benchmarks" / "common" / "plain_loop.py"
DATASETS = {"rotten_tomatoes": None, "sst2": None, "rte": 10}
"""The datasets, and the epochs of those that are not trained for as long as params.yaml says."""

_HEAD_SIZE = 0.02  # the standard deviation from which transformers draws a new head

log = logging.getLogger("beft.agreement")


def measure(settings: Settings, dataset: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Train both sides on a dataset; the evaluation accuracy of every seed."""
    own = settings.datasets[dataset]
    compute = resolve_compute(settings.base)
    set_threads(compute)
    with _data(settings, dataset) as prepared:
        facts = load_summary(prepared)
        rows = {split: load_split(prepared, split) for split in ("train", "dev", "test")}
    reference = resolve_base(settings.base.source)
    ours, plain = (
        load_classifier(reference, facts["labels"], compute=one, pooling=settings.head.pooling, seed=settings.seed)
        for one in (compute, replace(compute, precision="fp32"))
    )
    metric = str(facts["metric"])
    sample = make_sample(
        ours, rows["train"], rows["dev"], max_length=own.max_length, metric=metric, protocol="paper"
    ).train
    test = ours.examples(rows["test"], own.max_length)
    training = settings_of(settings.train, settings, dataset, len(sample))
    heads = {seed: drawn_head(ours, ours.head_parameters(settings.head.train), seed) for seed in seeds}
    sites = find_sites(ours.model, ["value"])

    results = fit(
        ours,
        sample,
        None,
        [Run(f"seed {seed}", sites, tuple(head), seed, training, "last", head) for seed, head in heads.items()],
        metric=DevMetric(metric, None),
        at_once=len(seeds),
    )
    accuracy: dict[str, list[float]] = {"engine": [], "plain_loop": []}
    for result in map(finished, results):
        with Bank(ours.model, result.deltas, result.head):
            accuracy["engine"].append(accuracy_on(ours, test))
    log.info("%s: engine %s", dataset, _each(accuracy["engine"]))

    biases = {site.module.rsplit(".", 1)[-1] for site in sites}
    [last] = biases
    for seed, head in heads.items():
        trained = train_plainly(plain, sample, training, biases=f".{last}.bias", head=head, seed=seed)
        accuracy["plain_loop"].append(accuracy_on(trained, test))
        log.info("%s: plain loop, seed %d: %.1f %%", dataset, seed, 100 * accuracy["plain_loop"][-1])
    return {
        "dataset": dataset,
        "title": facts["title"],
        "seeds": list(seeds),
        "rows": {"train": len(sample), "evaluation": len(test)},
        "training": training.model_dump(mode="json"),
        "accuracy": accuracy,
        "precision": {"engine": compute.precision, "plain_loop": "fp32"},
    }


def compared(found: Mapping[str, Any]) -> dict[str, Any]:
    """The intervals of a measured dataset, and whether both sides agree: their paired difference may be nothing."""
    engine, plain = found["accuracy"]["engine"], found["accuracy"]["plain_loop"]
    difference = Interval.of([one - other for one, other in zip(engine, plain, strict=True)])
    return {
        "engine": Interval.of(engine),
        "plain_loop": Interval.of(plain),
        "difference": difference,
        "agree": difference.contains_zero,
    }


def drawn_head(classifier: Classifier, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """A random head as transformers would draw it: where both sides of a seed start."""
    generator = torch.Generator().manual_seed(seed)
    named = dict(classifier.model.named_parameters())
    return {
        name: torch.zeros(named[name].shape)
        if name.endswith(".bias")
        else torch.randn(named[name].shape, generator=generator) * _HEAD_SIZE
        for name in names
    }


def accuracy_on(classifier: Classifier, rows: LabelledRows) -> float:
    """The share of rows whose label is predicted."""
    predicted = predict_probabilities(classifier, rows.encoded).numpy().argmax(-1)
    return float((predicted == rows.labels).mean())


def write(found: Sequence[Mapping[str, Any]], skipped: Sequence[str], described: Mapping[str, Any], out: Path) -> None:
    """The JSON and the table."""
    intervals = [compared(one) for one in found]
    write_json(
        out / "agreement.json",
        {
            "command": "make agreement",
            "machine": described,
            "confidence": CONFIDENCE,
            "datasets": [
                {
                    **one,
                    "intervals": {name: asdict(of[name]) for name in ("engine", "plain_loop", "difference")},
                    "agree": of["agree"],
                }
                for one, of in zip(found, intervals, strict=True)
            ],
            "skipped": list(skipped),
        },
    )
    lines = [
        "# The engine against a plain loop: accuracy",
        "",
        f"`make agreement`, {described['date']}; {described['cpu']}, {described['threads']} threads, engine in "
        f"{described['precision']}, plain loop in fp32; torch {described['torch']}. Base {described['base']}. Value "
        "biases and head, settings of params.yaml, whole sample, last epoch. The engine trains all seeds in one pass, "
        "the plain loop (`torch.optim.AdamW` on the model's own parameters) one after the other. Intervals: "
        f"{100 * CONFIDENCE:g} %, t, over seeds; the difference is paired by seed. Both sides agree when the interval "
        "of the difference holds zero.",
        "",
        "| dataset | rows: train, evaluation | epochs | engine | each seed | plain loop | each seed | difference | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one, of in zip(found, intervals, strict=True):
        accuracy, rows = one["accuracy"], one["rows"]
        lines.append(
            f"| {one['dataset']} | {rows['train']:,}, {rows['evaluation']:,} | {one['training']['epochs']} "
            f"| {of['engine'].percent()} | {_each(accuracy['engine'])} "
            f"| {of['plain_loop'].percent()} | {_each(accuracy['plain_loop'])} "
            f"| {of['difference'].percent('+')} | {_verdict(of['difference'])} |"
        )
    lines += ["", *skipped] if skipped else []
    write_text(out / "agreement.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


def _verdict(difference: Interval) -> str:
    if difference.contains_zero:
        return "agree"
    return f"**differ**, the engine {'higher' if difference.mean > 0 else 'lower'}"


def _data(settings: Settings, dataset: str) -> Any:
    size = settings.datasets[dataset].size
    if dataset in GLUE:
        return glue_data(dataset, size, draw=settings.split.draw)
    return prepared_data(dataset, size, settings.split)


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values)


def identity(settings: Settings, dataset: str, seeds: Sequence[int]) -> str:
    """A hash of what a measurement depends on: settings, precision, data, and the source of both sides."""
    files = glue_identity(dataset) if dataset in GLUE else {}
    compute = resolve_compute(settings.base).to_json()
    source = [sha256_tree(ROOT / "beft", ".py"), sha256_file(PLAIN_LOOP)]
    return sha256_json([settings.model_dump(mode="json"), compute, list(seeds), files, source])[:16]


def _finished(settings: Settings, dataset: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What was measured before of the same identity, or is measured now."""
    path = ROOT / "runs" / "agreement" / identity(settings, dataset, seeds) / f"{dataset}.json"
    if not path.exists():
        write_json(path, measure(settings, dataset, seeds))
    found: dict[str, Any] = read_json(path)
    return found


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=5, help="two or more")
    parser.add_argument("--epochs", type=int, help="of every dataset, instead of its own")
    parser.add_argument("--rows", type=int, help="of every sample, instead of the regime low")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write into")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: an interval needs two seeds or more")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = settings_on_disk()
    found, skipped = [], []
    for dataset in arguments.datasets:
        if dataset in GLUE and not is_here(dataset):
            skipped.append(f"{dataset} was skipped: its files are not in {VARIABLE}.")
            log.info("%s", skipped[-1])
            continue
        own = DatasetSettings(size=arguments.rows or "low", epochs=arguments.epochs or DATASETS[dataset])
        asked = settings.model_copy(update={"datasets": {dataset: own}})
        found.append(_finished(asked, dataset, range(arguments.seeds)))
    described = machine.describe(resolve_compute(settings.base)) | {"base": settings.base.source}
    write(found, skipped, described, arguments.out)


if __name__ == "__main__":
    main()
