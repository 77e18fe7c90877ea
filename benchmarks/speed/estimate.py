"""What a training is told to take before it starts against what it takes: part of `make bench`.

Estimate and training take turns. The trainings are cut to a few epochs, for which the estimate is scaled; it is
measured as for the whole training. Writes benchmarks/speed/estimate.json and .md. SST-2 is measured where
BEFT_DATA_DIR names the folder that holds it.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from beft.datasets.prepared import load_split
from beft.files import write_json, write_text
from beft.inference.runs import LabelledRows, Run
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.machine import load_average
from beft.models.reference import resolve_base
from beft.settings import BaseSettings, SplitSettings
from beft.sites.site import find_sites
from beft.training.engine.fit import fit, training_time
from beft.training_settings import TrainingSettings
from benchmarks.common import machine
from benchmarks.common.glue import glue_data, is_here
from benchmarks.common.prepared import prepared_data
from benchmarks.common.work import SOURCE, accuracy

HERE = Path(__file__).parent
MAX_LENGTH = 128
WITHIN = 0.25
"""How far an estimate may be off, as a share of what the training takes."""

log = logging.getLogger("beft.bench")


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        size: Rows of train and dev.
        terms: Bias terms that are trained; None: all.
        epochs: Of the training that is measured.
    """

    title: str
    dataset: str
    size: int
    terms: tuple[str, ...] | None = ("value",)
    runs: int = 1
    epochs: int = 1


CASES = (
    Case("value, 800 rows", "rotten_tomatoes", 1000, epochs=2),
    Case("all bias terms, 800 rows", "rotten_tomatoes", 1000),
    Case("value, 12 runs in one pass, 160 rows", "rotten_tomatoes", 200, runs=12),
    Case("value, 240 rows", "imdb", 300, epochs=2),
    Case("value, 800 rows", "sst2", 1000, epochs=2),
)


def runs_of(classifier: Classifier, case: Case, epochs: int) -> list[Run]:
    """The runs of a case, by the default settings."""
    sites = find_sites(classifier.model, case.terms)
    settings = TrainingSettings(epochs=epochs)
    return [
        Run(f"seed {seed}", sites, classifier.head_parameters(), seed, settings, "best") for seed in range(case.runs)
    ]


def measure(
    classifier: Classifier, case: Case, train: LabelledRows, dev: LabelledRows, repetitions: int
) -> dict[str, Any]:
    """Estimates and trainings in turns: medians, and the smallest and the largest ratio of a pair."""
    estimates, trainings, measuring = [], [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        told = training_time(classifier, train, dev, runs_of(classifier, case, TrainingSettings().epochs))
        measuring.append(time.perf_counter() - began)
        estimates.append(case.runs * told.seconds(train, dev, case.epochs))
        began = time.perf_counter()
        runs = runs_of(classifier, case, case.epochs)
        fit(classifier, train, dev, runs, metric=accuracy, at_once=case.runs, progress=lambda line: None)
        trainings.append(time.perf_counter() - began)
    ratios = [estimate / real for estimate, real in zip(estimates, trainings, strict=True)]
    found = {
        "estimate": median(estimates),
        "training": median(trainings),
        "ratio": median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "measuring": median(measuring),
    }
    log.info("%s, %s: %s", case.dataset, case.title, {name: round(value, 2) for name, value in found.items()})
    return found


def prepared_case(case: Case) -> AbstractContextManager[Path]:
    """The prepared data of a case."""
    if case.dataset == "sst2":
        return glue_data(case.dataset, case.size)
    return prepared_data(case.dataset, case.size, SplitSettings())


def cases() -> Iterator[Case]:
    """Those whose data is here."""
    return (case for case in CASES if case.dataset != "sst2" or is_here("sst2"))


def table(about: dict[str, Any], found: Sequence[tuple[Case, dict[str, Any]]]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "# The time that is told before a training",
        "",
        f"`make bench`, {about['date']}; {about.get('gpu', about['cpu'])}, {about['threads']} threads, "
        f"{about['precision']}; torch {about['torch']}. Base {about['base']}, texts cut to {MAX_LENGTH} tokens, "
        f"default settings. Estimate and training in turns, {about['repetitions']} repetitions: the medians of each, "
        "and the median, the smallest and the largest of the ratios of a pair, which is why told / took is not the "
        "ratio of the two medians before it. The trainings are cut to the epochs shown. "
        + (
            "All times are processor time of one thread: others used the machine."
            if about["processor_time"]
            else f"The load average before the measurement was {about['load']:.1f}."
        ),
        "",
        "| dataset | training | epochs | told, s | took, s | told / took | measuring it, s |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {case.dataset} | {case.title} | {case.epochs} | {one['estimate']:.1f} | {one['training']:.1f} "
            f"| **{one['ratio']:.2f}** [{one['low']:.2f}, {one['high']:.2f}] | {one['measuring']:.1f} |"
            for case, one in found
        ),
        "",
        f"Asked: the time that is told is within {100 * WITHIN:.0f} % of the time that it takes; here "
        f"{sum(abs(one['ratio'] - 1) <= WITHIN for _, one in found)} of {len(found)} are. A machine whose load changes "
        "between estimate and training changes the ratio as much.",
    ]
    return "\n".join(lines) + "\n"


def record(about: dict[str, Any], found: Sequence[tuple[Case, dict[str, Any]]]) -> dict[str, Any]:
    """What was measured, as JSON: ``case`` is the training's title, ``training`` the seconds that it took."""
    rows = [{"dataset": case.dataset, "case": case.title, "epochs": case.epochs, **one} for case, one in found]
    return {"about": about, "found": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=BaseSettings().threads)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument(
        "--processor-time", action="store_true", help="measure what one thread computes, on a machine that others use"
    )
    options = parser.parse_args(arguments)
    if options.processor_time:
        options.threads, time.perf_counter = 1, time.process_time
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(source=SOURCE, threads=options.threads))
    set_threads(compute)
    classifier = load_classifier(resolve_base(SOURCE), ["negative", "positive"], compute=compute, pooling="mean")
    about = {
        **machine.describe(compute),
        "base": SOURCE,
        "repetitions": options.repetitions,
        "load": load_average() or 0.0,
        "processor_time": options.processor_time,
    }
    found = []
    for case in cases():
        with prepared_case(case) as prepared:
            train, dev = (classifier.examples(load_split(prepared, split), MAX_LENGTH) for split in ("train", "dev"))
        found.append((case, measure(classifier, case, train, dev, options.repetitions)))
    write_json(options.out / "estimate.json", record(about, found))
    write_text(options.out / "estimate.md", table(about, found))


if __name__ == "__main__":
    main()
