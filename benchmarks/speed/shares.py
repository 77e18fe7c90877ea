"""How much of a training's time the matrix products are that it could not do without: part of `make bench`.

The share is the time of the products of all linear layers alone, with the real weights, one after another, for the
batches of an epoch, over the time of that epoch. Counted are the products that commit b7ab16f computes: those of each
layer forward, and backward the gradients of every layer's inputs but for the query, key and value of the lowest one.
So a training that avoids products has a larger share. Both take turns in one process. Writes
benchmarks/speed/shares.json and .md; the share of prediction is in benchmarks/speed/prediction.md.
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from beft.encoding.tokenization import training_batches
from beft.files import write_json, write_text
from beft.inference.runs import LabelledRows, Run
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from beft.training.engine.fit import fit
from benchmarks.common import machine, step_profile
from benchmarks.common.timing import compare
from benchmarks.common.work import SOURCE, accuracy, run_of, sample

HERE = Path(__file__).parent
ROWS = 400  # of a sample; 80 % are trained on
ASKED = {1: "0.75", 12: "0.8"}

log = logging.getLogger("beft.bench")


def several(classifier: Classifier, count: int) -> list[Run]:
    """Runs as the pipeline trains them: value biases and the output layer, without dropout."""
    head = classifier.head_parameters("output")
    runs = [run_of(classifier, f"value {seed}", ["value"], seed, dropout=False) for seed in range(count)]
    return [replace(run, head=head) for run in runs]


def products(classifier: Classifier, rows: LabelledRows, runs: Sequence[Run]) -> Callable[[], None]:
    """The products of an epoch of all runs alone."""
    layers = classifier.model.base_model.encoder.named_modules()
    linear = {name: module for name, module in layers if isinstance(module, nn.Linear)}
    lowest = ("layer.0.attention.self.query", "layer.0.attention.self.key", "layer.0.attention.self.value")
    batches = [
        len(batch) * int(rows.encoded.lengths[batch].max())
        for run in runs
        for batch in training_batches(rows.encoded.lengths, run.settings.batch_size, seed=run.seed, epoch=1)
    ]
    dtype = next(iter(linear.values())).weight.dtype
    widths = {width for module in linear.values() for width in (module.in_features, module.out_features)}
    inputs: dict[tuple[int, int], Tensor] = {
        (count, width): torch.ones(count, width, dtype=dtype) for count in set(batches) for width in widths
    }

    @torch.no_grad()
    def multiply() -> None:
        for count in batches:
            for module in linear.values():
                nn.functional.linear(inputs[count, module.in_features], module.weight)
            for name, module in linear.items():
                if name not in lowest:
                    torch.mm(inputs[count, module.out_features], module.weight)

    return multiply


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    classifier = load_classifier(resolve_base(SOURCE), ["negative", "positive"], compute=compute, pooling="mean")
    rows = sample(classifier, "rotten_tomatoes", ROWS)
    quiet: dict[str, Any] = {"metric": accuracy, "progress": lambda line: None}
    found = []
    for count, asked in ASKED.items():
        runs = several(classifier, count)
        found.append(
            compare(
                f"{count} {'run' if count == 1 else 'runs in one pass'} of value",
                lambda runs=runs: fit(classifier, rows, None, runs, at_once=len(runs), **quiet),  # type: ignore[misc]
                products(classifier, rows, runs),
                asked=asked,
                repetitions=options.repetitions,
                examples=count * len(rows),
            )
        )
    profile = step_profile.shares(lambda: fit(classifier, rows, None, several(classifier, 1), at_once=1, **quiet))
    about = {**machine.describe(compute), "base": SOURCE, "rows": len(rows), "repetitions": options.repetitions}
    record = {"machine": about, "comparisons": [asdict(one) for one in found], "time_of_a_step": profile}
    write_json(HERE / "shares.json", record)
    lines = [
        "# The share of the matrix products in a training",
        "",
        f"`make bench`, {about['date']}; {about['cpu']}, {about['threads']} threads, {about['precision']}; torch "
        f"{about['torch']}. Base {SOURCE}, {len(rows)} rows of Rotten Tomatoes, batch 16, one epoch, as the pipeline "
        f"trains. Both in turns, {options.repetitions} repetitions after one that does not count; the ratio of the "
        "medians, with the smallest and the largest of a pair. Counted are the products that commit b7ab16f computes.",
        "",
        "| | share | asked | examples/s | the products alone, examples/s |",
        "|---|---|---|---|---|",
        *(
            f"| {one.title} | **{one.ratio:.2f}** [{one.low:.2f}, {one.high:.2f}] | {one.asked} "
            f"| {one.examples / one.ours:.1f} | {one.examples / one.theirs:.1f} |"
            for one in found
        ),
        "",
        "Where the time of one run goes, by `torch.profiler`:",
        "",
        "| operations | share of the CPU time |",
        "|---|---|",
        *(f"| {kind} | {100 * part:.1f} % |" for kind, part in profile.items()),
    ]
    write_text(HERE / "shares.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
