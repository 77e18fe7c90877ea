"""The training engine against its peers, on the same rows and settings: `make bench`.

Both sides of a row are timed in turns, in one process, after one round that does not count; what is written is the
ratio of the medians, with the smallest and the largest ratio of a pair. Writes benchmarks/engine.json and .md.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beft.adaptation import labelled
from beft.base import load_classifier, resolve_base
from beft.classifier import Classifier
from beft.datasets import load_split
from beft.device import resolve_compute, set_threads
from beft.encoding import sorted_batches
from beft.files import write_json, write_text
from beft.importance import fisher_information
from beft.runs import LabelledRows, Run
from beft.settings import BaseSettings, SplitSettings, TrainingSettings
from beft.sites import find_sites
from beft.training import fit
from benchmarks import machine, peers
from benchmarks.prepared import prepared_data

HERE = Path(__file__).parent
ROOT = HERE.parent
SOURCE = BaseSettings().source
PLAIN = TrainingSettings(
    epochs=1,
    learning_rate=4e-4,
    head_learning_rate=None,
    schedule="linear",
    warmup_fraction=0.0,
    batch_size=16,
    dropout=True,
)
"""What both sides are asked to do: the published optimiser, one epoch."""

log = logging.getLogger("beft.bench")


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same work.

    Attributes:
        title: What was compared.
        asked: The ratio that was asked for.
        ratio: Median time of the peer over median time of beft: above 1, beft is faster.
        low: The smallest ratio of a pair of repetitions.
        high: The largest.
        ours: Median seconds of beft.
        theirs: Median seconds of the peer.
        examples: How many examples each side computed in that time.
        note: What a reader must know.
    """

    title: str
    asked: str
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float
    examples: int
    note: str = ""


def compare(
    title: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    examples: int,
    asked: str,
    repetitions: int,
    note: str = "",
    their_examples: int | None = None,
) -> Comparison:
    """Time both sides in turns. Where a side does fewer examples, its time is scaled to as many as the other's."""
    scale = examples / (their_examples or examples)
    pairs: list[tuple[float, float]] = []
    for repetition in range(repetitions + 1):
        pair = (_seconds(ours), scale * _seconds(theirs))
        if repetition:
            pairs.append(pair)
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [two / one for one, two in pairs]
    found = Comparison(title, asked, second / first, min(ratios), max(ratios), first, second, examples, note)
    log.info("%s: %.2f [%.2f, %.2f]", title, found.ratio, found.low, found.high)
    return found


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def sample(classifier: Classifier, dataset: str, size: int, max_length: int = 128) -> LabelledRows:
    """Labelled rows of a dataset."""
    with prepared_data(dataset, size, SplitSettings()) as prepared:
        return labelled(classifier, load_split(prepared, "train"), max_length)


def run_of(classifier: Classifier, name: str, terms: list[str] | None, seed: int = 0, **settings: Any) -> Run:
    """A run of one epoch, as the published code trains it: the pooler's bias and the head with the term."""
    return Run(
        name,
        find_sites(classifier.model, terms),
        classifier.head_parameters("paper"),
        seed,
        PLAIN.model_copy(update=settings),
        "last",
    )


def comparisons(repetitions: int, rows_of_epoch: int) -> tuple[list[Comparison], dict[str, Any]]:
    """All rows of the table, and what they were measured on."""
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    reference = resolve_base(SOURCE)
    folder = str(reference.folder)
    classifier = load_classifier(reference, ["negative", "positive"], compute=compute, pooling="model")
    rows = sample(classifier, "rotten_tomatoes", rows_of_epoch)
    quiet: dict[str, Any] = {"metric": accuracy, "progress": lambda line: None}
    value = run_of(classifier, "value", ["value"])
    still = replace(value, settings=PLAIN.model_copy(update={"dropout": False}))
    everything = run_of(classifier, "all", None)
    few = _first(rows, 64)

    def train(run: Run, of: LabelledRows = rows) -> Callable[[], Any]:
        return lambda: fit(classifier, of, None, [run], at_once=1, **quiet)

    def published(of: LabelledRows) -> Callable[[], None]:
        model = peers.load(folder, 2)
        return lambda: peers.published_protocol(model, of, PLAIN)

    bf16 = compute.precision == "bf16"
    trainer = peers.peft_and_trainer(folder, rows, classifier.tokenizer, PLAIN, bf16=bf16)
    twelve = [
        run_of(classifier, f"{term} {seed}", [term], seed) for term in ("query", "key", "value") for seed in range(4)
    ]
    some = _first(rows, 96)
    sites = find_sites(classifier.model)

    def fisher() -> Any:
        batches = (
            (rows.encoded.batch(batch), torch.from_numpy(rows.labels[batch]))
            for batch in sorted_batches(rows.encoded.lengths, 32)
        )
        return fisher_information(classifier, batches, sites)

    count = len(rows)
    against: dict[str, Any] = {"repetitions": repetitions, "examples": count}
    found = [
        compare(
            "published protocol (fp32, padded to 128), value, 1 run",
            train(value),
            published(few),
            asked="9x without AMX, 15x with",
            their_examples=len(few),
            **against,
        ),
        compare(
            "the same, beft without dropout (its default recipe)",
            train(still),
            published(few),
            asked="",
            their_examples=len(few),
            note="the published side keeps its dropout",
            **against,
        ),
        compare(
            f"PEFT BeftConfig + Trainer, grouped by length, {'bf16' if bf16 else 'fp32'}, value, 1 run",
            train(value),
            trainer.train,
            asked="1.5x",
            **against,
        ),
        compare(
            "12 runs one after the other against one pass (3 terms x 4 seeds)",
            lambda: fit(classifier, some, None, twelve, at_once=12, **quiet),
            lambda: [fit(classifier, some, None, [run], at_once=1, **quiet) for run in twelve],
            asked="1.4x",
            repetitions=repetitions,
            examples=12 * len(some),
        ),
        compare(
            "all biases against value",
            train(value),
            train(everything),
            asked="at most 1.3x the time",
            note="the ratio is how much longer all biases take",
            **against,
        ),
        compare(
            "full fine-tuning, same code, against value",
            train(value),
            lambda: peers.full_fine_tuning(classifier, rows, PLAIN),
            asked="2x",
            **against,
        ),
        compare(
            "Fisher information, per-example loop",
            fisher,
            lambda: peers.fisher_loop(classifier, some, sites),
            asked="20x",
            their_examples=len(some),
            **against,
        ),
    ]
    described = {
        **machine.describe(compute),
        "base": reference.portable_id,
        "rows": count,
        "tokens_a_row": float(rows.encoded.lengths.mean()),
        "repetitions": repetitions,
        "linear_parameters": sum(
            module.weight.numel() for module in classifier.model.base_model.modules() if isinstance(module, nn.Linear)
        ),
        "gemm_gflops": machine.gemm_gflops(),
    }
    return found, described


def memory_above_the_base() -> dict[str, float]:
    """Megabytes of the process above the loaded base, at most, of value and of full fine-tuning: a process for each."""
    found = {}
    for kind in ("value", "full"):
        command = [sys.executable, "-m", "benchmarks.memory", kind]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        found[kind] = float(done.stdout.split()[-1])
    return found


def write(found: list[Comparison], described: dict[str, Any], memory: dict[str, float]) -> None:
    """The committed JSON and table."""
    write_json(
        HERE / "engine.json",
        {
            "command": "make bench",
            "machine": described,
            "comparisons": [asdict(one) for one in found],
            "memory_above_the_base_mb": memory,
        },
    )
    rate = found[0].examples / found[0].ours
    flops = 4 * described["linear_parameters"] * described["tokens_a_row"] * rate / 1e9
    lines = [
        "# The training engine against its peers",
        "",
        f"`make bench`, {described['date']}; {described['cpu']}, {described['threads']} threads, "
        f"{described['precision']}; torch {described['torch']}. Base {described['base']}, {described['rows']} rows of "
        f"Rotten Tomatoes ({described['tokens_a_row']:.0f} tokens each), batch 16, one epoch. Both sides in turns, "
        f"{described['repetitions']} repetitions after one that does not count; ratio of medians, and the smallest and "
        "largest ratio of a pair.",
        "",
        "| against | ratio | asked | beft, examples/s | the other, examples/s | |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.title} | **{one.ratio:.2f}** [{one.low:.2f}, {one.high:.2f}] | {one.asked} "
            f"| {one.examples / one.ours:.1f} | {one.examples / one.theirs:.1f} | {one.note} |"
        )
    share = memory["value"] / memory["full"]
    lines += [
        "",
        f"Memory above the loaded base: value {memory['value']:.0f} MB, full fine-tuning {memory['full']:.0f} MB: "
        f"{share:.2f} of it (asked: at most 0.5).",
        "",
        f"Share of the machine: one run of value does {flops:.0f} GFLOP/s in its linear layers (forward, and backward "
        f"to their inputs) of {described['gemm_gflops']:.0f} that a large matrix product reaches here: "
        f"{100 * flops / described['gemm_gflops']:.0f} %.",
    ]
    write_text(HERE / "engine.md", "\n".join(lines) + "\n")
    log.info("%s", "\n".join(lines))


def _first(rows: LabelledRows, count: int) -> LabelledRows:
    encoded = rows.encoded
    types = None if encoded.type_ids is None else encoded.type_ids[:count]
    part = replace(encoded, input_ids=encoded.input_ids[:count], type_ids=types, lengths=encoded.lengths[:count])
    return LabelledRows(part, rows.labels[:count])


def accuracy(probabilities: Any, labels: Any) -> float:
    return float((probabilities.argmax(-1) == labels).mean())


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rows", type=int, default=400, help="rows of the sample; 80 %% are trained on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write(*comparisons(arguments.repetitions, arguments.rows), memory_above_the_base())


if __name__ == "__main__":
    main()
