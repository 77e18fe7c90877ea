"""Prediction by batches of tokens, by batches of rows, and the matrix products alone: part of `make bench`.

All ways take turns in one process, each on the same rows; what is written is the median rate of each with its smallest
and largest, and the share: the time of the products of all linear layers alone, with the real weights and the tokens
of the same batches, over the time of the prediction. Writes benchmarks/speed/prediction.json and .md.
"""

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from beft.datasets.prepared import load_split
from beft.encoding.tokenization import Encoded, sorted_batches, token_batches
from beft.files import write_json, write_text
from beft.inference.batching import tokens_at_once
from beft.inference.predictions import sequence_outputs
from beft.inference.products import compute_products
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import BaseSettings, SplitSettings
from benchmarks.common import machine
from benchmarks.common.prepared import prepared_data
from benchmarks.common.step_profile import shares
from benchmarks.common.work import SOURCE

HERE = Path(__file__).parent
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
MAX_LENGTH = {"rotten_tomatoes": 128, "imdb": 256}
ROWS = {"rotten_tomatoes": 640, "imdb": 96}  # about as many tokens
PRODUCTS = "the products alone"

log = logging.getLogger("beft.bench")


def ways(classifier: Classifier, encoded: Encoded) -> dict[str, Callable[[], Any]]:
    """Every way to predict the rows, and the products alone of the default one."""

    def by_rows(rows: int) -> Callable[[], Any]:
        return lambda: predict(classifier, encoded, list(sorted_batches(encoded.lengths, rows)))

    def as_they_come() -> None:
        order = np.arange(len(encoded))
        predict(classifier, encoded, [order[start : start + 64] for start in range(0, len(order), 64)])

    suits = list(token_batches(encoded.lengths, tokens_at_once(classifier, None)))
    padded = [len(batch) * int(encoded.lengths[batch].max()) for batch in suits]
    return {
        **{
            f"batches of {budget} tokens": lambda budget=budget: sequence_outputs(  # type: ignore[misc]
                classifier, encoded, batch_tokens=budget
            )
            for budget in BUDGETS
        },
        "batches of 16 rows, sorted": by_rows(16),
        "batches of 64 rows, sorted": by_rows(64),
        "batches of 64 rows as they come": as_they_come,
        PRODUCTS: lambda: compute_products(classifier, padded),
    }


@torch.no_grad()
def predict(classifier: Classifier, encoded: Encoded, batches: Sequence[np.ndarray]) -> None:
    """The outputs of the rows in given batches."""
    classifier.eval()
    for batch in batches:
        classifier(encoded.batch(batch, classifier.device)).double().cpu()


def measure(classifier: Classifier, encoded: Encoded, repetitions: int) -> dict[str, dict[str, float]]:
    """Rows a second of every way, all in turns, after one round that does not count."""
    found: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        for name, work in ways(classifier, encoded).items():
            began = time.perf_counter()
            work()
            if repetition:
                found.setdefault(name, []).append(len(encoded) / (time.perf_counter() - began))
    for name, rates in found.items():
        log.info("%s: %.1f rows/s [%.1f, %.1f]", name, median(rates), min(rates), max(rates))
    return {
        name: {"rate": median(rates), "low": min(rates), "high": max(rates), "share": median(_shares(found, name))}
        for name, rates in found.items()
    }


def _shares(found: dict[str, list[float]], name: str) -> list[float]:
    """The share of each turn: a rate over the rate of the products alone beside it."""
    return [rate / alone for rate, alone in zip(found[name], found[PRODUCTS], strict=True)]


def table(
    about: dict[str, Any], found: dict[str, dict[str, dict[str, float]]], profiles: dict[str, dict[str, float]]
) -> str:
    """What was measured, as Markdown."""
    lines = [
        "# Prediction",
        "",
        f"`make bench`, {about['date']}; {about['cpu']}, {about['threads']} threads, {about['precision']}; torch "
        f"{about['torch']}. Base {about['base']}. All ways in turns in one process, {about['repetitions']} repetitions "
        "after one that does not count; medians, with the smallest and the largest. All have the same model, beft's "
        "attention included. The share is the time of the matrix products of all linear layers alone, for the batches "
        f"that are the default ({about['batch_tokens']} tokens), over the time of the prediction.",
    ]
    for dataset, ways_of in found.items():
        lines += [
            "",
            f"## {dataset}: {about['rows'][dataset]} rows, {about['tokens'][dataset]:.0f} tokens a row",
            "",
            "| | rows/s | share |",
            "|---|---|---|",
            *(
                f"| {name} | {one['rate']:.1f} [{one['low']:.1f}, {one['high']:.1f}] | {one['share']:.2f} |"
                for name, one in ways_of.items()
            ),
            "",
            "Where the time of the operations goes with the default batches: "
            + ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in profiles[dataset].items())
            + ".",
        ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    classifier = load_classifier(resolve_base(SOURCE), ["negative", "positive"], compute=compute, pooling="model")
    about = {
        **machine.describe(compute),
        "base": SOURCE,
        "repetitions": options.repetitions,
        "batch_tokens": tokens_at_once(classifier, None),
        "rows": {},
        "tokens": {},
    }
    found, profiles = {}, {}
    for dataset, max_length in MAX_LENGTH.items():
        with prepared_data(dataset, 200, SplitSettings()) as prepared:
            rows = load_split(prepared, "test").select(range(ROWS[dataset]))
        encoded = classifier.examples(rows, max_length).encoded
        about["rows"][dataset], about["tokens"][dataset] = len(encoded), float(encoded.lengths.mean())
        found[dataset] = measure(classifier, encoded, options.repetitions)
        profiles[dataset] = shares(lambda encoded=encoded: sequence_outputs(classifier, encoded))  # type: ignore[misc]
    write_json(options.out / "prediction.json", {"about": about, "found": found, "profiles": profiles})
    write_text(options.out / "prediction.md", table(about, found, profiles))


if __name__ == "__main__":
    main()
