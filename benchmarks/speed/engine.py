"""The training engine against its peers, on the same rows and settings: `make bench`.

Both sides of a row are timed in turns, in one process, after one round that does not count; what is written is the
ratio of the medians, with the smallest and the largest ratio of a pair. Writes benchmarks/speed/engine.json and .md.
The rows on SST-2 and RTE are measured where BEFT_DATA_DIR names the folder that holds them.
"""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from beft.encoding.tokenization import sorted_batches
from beft.files import write_json, write_text
from beft.importance.methods.fisher import fisher_information
from beft.inference.runs import LabelledRows, Run
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute, resolve_compute, set_threads
from beft.models.machine import large_product_rate
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from beft.sites.site import find_sites, site_module
from beft.training.engine.fit import fit
from benchmarks.common import machine, peers, step_profile
from benchmarks.common.glue import glue_rows, is_here
from benchmarks.common.timing import Comparison, compare
from benchmarks.common.work import PLAIN, SOURCE, accuracy, first_rows, run_of, sample
from benchmarks.speed import compiling

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PUBLISHED_ROWS, LOOP_ROWS = 64, 96
"""Rows of the slow peers, whose time is scaled to as many as beft computes; also those that twelve runs train on."""

STILL = PLAIN.model_copy(update={"dropout": False})
QUIET: dict[str, Any] = {"metric": accuracy, "progress": lambda line: None}

log = logging.getLogger("beft.bench")


@dataclass
class Bench:
    """The two sides of every comparison, over one base.

    Attributes:
        rows: Labelled rows by dataset; Rotten Tomatoes is always there.
    """

    compute: Compute
    folder: str
    classifier: Classifier
    rows: dict[str, LabelledRows]
    repetitions: int

    def comparisons(self) -> Iterator[Comparison]:
        """All rows of the table, each as soon as it is measured."""
        for dataset in self.rows:
            yield from self.against_peers(dataset)
        yield from self.against_itself()

    def against_peers(self, dataset: str) -> Iterator[Comparison]:
        """One run of value, with dropout as the peers have it, and without, as beft's recipe has it, on both sides."""
        rows, few = self.rows[dataset], first_rows(self.rows[dataset], PUBLISHED_ROWS)
        tokens = f"{dataset}, {rows.encoded.lengths.mean():.0f} tokens a row"
        fast_bf16 = self.compute.precision == "bf16"
        asked = ("3.5x" if dataset == "rte" else "15x") if fast_bf16 else ("" if dataset == "rte" else "9x")
        against: dict[str, Any] = {"repetitions": self.repetitions, "examples": len(rows)}
        for settings, of in ((PLAIN, "with dropout"), (STILL, "without dropout")):
            run = replace(run_of(self.classifier, "value", ["value"]), settings=settings)
            model = self.loaded(dropout=settings.dropout)
            yield compare(
                f"published protocol (fp32, padded to 128), {of}: {tokens}",
                self.train(run, rows),
                partial(peers.published_protocol, model, few, settings),
                asked=asked,
                their_examples=len(few),
                **against,
            )
            base = self.loaded(dropout=settings.dropout, dtype=self.compute.dtype)
            trainer = peers.peft_and_trainer(base, rows, self.classifier.tokenizer, settings)
            yield compare(
                f"PEFT BeftConfig + Trainer, grouped by length, {self.compute.precision}, {of}: {tokens}",
                self.train(run, rows),
                trainer.train,
                asked="1.5x",
                **against,
            )

    def against_itself(self) -> Iterator[Comparison]:
        """One run against twelve, all biases, full fine-tuning, and Fisher against the per-example loop."""
        rows, some = self.rows["rotten_tomatoes"], first_rows(self.rows["rotten_tomatoes"], LOOP_ROWS)
        value = self.train(run_of(self.classifier, "value", ["value"]), rows)
        twelve = [
            run_of(self.classifier, f"{term} {seed}", [term], seed)
            for term in ("query", "key", "value")
            for seed in range(4)
        ]
        yield compare(
            "12 runs one after the other against one pass (3 terms x 4 seeds)",
            lambda: fit(self.classifier, some, None, twelve, at_once=12, **QUIET),
            lambda: [fit(self.classifier, some, None, [run], at_once=1, **QUIET) for run in twelve],
            asked="1.4x",
            repetitions=self.repetitions,
            examples=12 * len(some),
        )
        against: dict[str, Any] = {"repetitions": self.repetitions, "examples": len(rows)}
        yield compare(
            "all biases against value",
            value,
            self.train(run_of(self.classifier, "all", None), rows),
            asked="at most 1.3x the time",
            note="the ratio is how much longer all biases take",
            **against,
        )
        yield compare(
            "full fine-tuning, same code, against value",
            value,
            lambda: peers.full_fine_tuning(self.classifier, rows, PLAIN),
            asked="2x",
            note="full fine-tuning has three matrix products where value has two",
            **against,
        )
        sites = find_sites(self.classifier.model)

        def fisher() -> Any:
            batches = (
                (rows.encoded.batch(batch), torch.from_numpy(rows.labels[batch]))
                for batch in sorted_batches(rows.encoded.lengths, PLAIN.batch_size)
            )
            return fisher_information(self.classifier, batches, sites)

        yield compare(
            "Fisher information, per-example loop",
            fisher,
            lambda: peers.fisher_loop(self.classifier, some, sites),
            asked="20x",
            note="both sides have the same matrix products",
            their_examples=len(some),
            **against,
        )

    def train(self, run: Run, rows: LabelledRows) -> Callable[[], Any]:
        """One run of beft's engine."""
        return lambda: fit(self.classifier, rows, None, [run], at_once=1, **QUIET)

    def loaded(self, *, dropout: bool, dtype: torch.dtype = torch.float32) -> Any:
        """The base as a peer loads it."""
        return peers.load(self.folder, 2, dropout=dropout, dtype=dtype)


def opened(repetitions: int, rows_of_epoch: int) -> Bench:
    """The default base, and rows of every dataset that can be reached."""
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    reference = resolve_base(SOURCE)
    classifier = load_classifier(reference, ["negative", "positive"], compute=compute, pooling="model")
    rows = {"rotten_tomatoes": sample(classifier, "rotten_tomatoes", rows_of_epoch)}
    if is_here("sst2") and is_here("rte"):
        rows["sst2"] = first_rows(glue_rows(classifier, "sst2", "low", 128), 160)
        rows["rte"] = first_rows(glue_rows(classifier, "rte", "low", 128), 160)
    return Bench(compute, str(reference.folder), classifier, rows, repetitions)


def described(bench: Bench) -> dict[str, Any]:
    """The machine, the work, and where a step's time goes."""
    rows = bench.rows["rotten_tomatoes"]
    still = replace(run_of(bench.classifier, "value", ["value"]), settings=STILL)
    linear = [module for module in bench.classifier.model.base_model.modules() if isinstance(module, nn.Linear)]
    compiled = compiling.measure(bench.classifier, first_rows(rows, 160))
    return {
        **machine.describe(bench.compute),
        "base": SOURCE,
        "rows": {name: len(of) for name, of in bench.rows.items()},
        "tokens_a_row": float(rows.encoded.lengths.mean()),
        "repetitions": bench.repetitions,
        "linear_parameters": sum(module.weight.numel() for module in linear),
        "computed_parameters": sum(module.weight.numel() for module in linear) - unread_parameters(bench.classifier),
        "gemm_gflops": large_product_rate("cpu", torch.float32) / 1e9,
        "engine_gemm_gflops": large_product_rate("cpu", bench.compute.dtype) / 1e9,
        "time_of_a_step": step_profile.shares(bench.train(still, rows)),
        "torch_compile": None if compiled is None else asdict(compiled),
    }


def unread_parameters(classifier: Classifier) -> int:
    """Weights of the last layer's linear layers that are applied to the first token alone."""
    last = max(site.layer or 0 for site in find_sites(classifier.model))
    after = find_sites(classifier.model, ["intermediate", "output"])
    modules: list[Any] = [site_module(classifier.model, site) for site in after if site.layer == last]
    return sum(module.weight.numel() for module in modules)


def memory_above_the_base() -> dict[str, float]:
    """Megabytes of the process above the loaded base, at most, of value and of full fine-tuning: a process for each."""
    found = {}
    for kind in ("value", "full", "value+dropout", "full+dropout"):
        command = [sys.executable, "-m", "benchmarks.speed.memory", kind]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        found[kind] = float(done.stdout.split()[-1])
    return found


def table(found: list[Comparison], about: dict[str, Any], memory: dict[str, float]) -> str:
    """What was measured, as Markdown."""
    share, with_dropout = (memory[f"value{of}"] / memory[f"full{of}"] for of in ("", "+dropout"))
    lines = [
        "# The training engine against its peers",
        "",
        f"`make bench`, {about['date']}; {about['cpu']}, {about['threads']} threads, {about['precision']}; torch "
        f"{about['torch']}. Base {about['base']}, batch 16, one epoch over "
        + " and ".join(f"{count} rows of {name}" for name, count in about["rows"].items())
        + f". Both sides in turns, {about['repetitions']} repetitions after one that does not count; ratio of medians, "
        "and the smallest and largest ratio of a pair. The published protocol is timed on "
        f"{PUBLISHED_ROWS} rows and the per-example loop on {LOOP_ROWS}, scaled to as many as beft computes; twelve "
        f"runs train on {LOOP_ROWS}.",
        "",
        "| against | ratio | asked | beft, examples/s | the other, examples/s | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one.title} | **{one.ratio:.2f}** [{one.low:.2f}, {one.high:.2f}] | {one.asked} "
            f"| {one.examples / one.ours:.1f} | {one.examples / one.theirs:.1f} | {one.note} |"
            for one in found
        ),
        "",
        f"Memory above the loaded base: value {memory['value']:.0f} MB, full fine-tuning {memory['full']:.0f} MB: "
        f"{share:.2f} of it (asked: at most 0.5). With dropout, whose masks both keep: {memory['value+dropout']:.0f} "
        f"and {memory['full+dropout']:.0f} MB, {with_dropout:.2f}.",
        "",
        "## Where a step's time goes",
        "",
        "One run of value without dropout on Rotten Tomatoes, by `torch.profiler`:",
        "",
        "| operations | share of the CPU time |",
        "|---|---|",
        *(
            f"| {kind} | {100 * part:.1f} % |"
            for kind, part in sorted(about["time_of_a_step"].items(), key=lambda item: -item[1])
        ),
        "",
        products_line(found, about),
        "",
        compiled_line(about["torch_compile"]),
    ]
    return "\n".join(lines) + "\n"


def products_line(found: list[Comparison], about: dict[str, Any]) -> str:
    """How near the products of both sides come to a large one of their own precision, in words."""
    still = next(one for one in found if "published" in one.title and "without dropout" in one.title)
    rate, published = (still.examples / seconds for seconds in (still.ours, still.theirs))
    # A forward and a backward pass to the inputs, two operations a weight and token each.
    whole = 4 * about["linear_parameters"] * about["tokens_a_row"] / 1e9
    ours = 4 * about["computed_parameters"] * about["tokens_a_row"] / 1e9
    theirs = 4 * about["linear_parameters"] * peers.PADDED_TO / 1e9
    precision, peak = about["precision"], about["gemm_gflops"]
    own_peak = peak if precision == "fp32" else about.get("engine_gemm_gflops")
    line = (
        f"A large matrix product reaches {peak:.0f} GFLOP/s in fp32 here. In its linear layers the published protocol "
        f"does {theirs * published:.0f}, {100 * theirs * published / peak:.0f} % of that. One run of value, in "
        f"{precision}, does {ours * rate:.0f}, with {theirs / ours:.1f} times fewer products for an example: no "
        "padding to 128, and no tokens of the last layer that no head reads "
        f"({100 * (1 - ours / whole):.0f} % of the rest). "
    )
    if own_peak is None:
        return f"{line}How fast a large product is in {precision} was not measured."
    return (
        f"{line}A large product reaches {own_peak:.0f} in {precision}. With nothing but its products, and all of them "
        f"at that rate, beft would do {own_peak / ours:.0f} examples/s, {own_peak / ours / published:.1f} times the "
        "published protocol without dropout."
    )


def compiled_line(compiled: dict[str, Any] | None) -> str:
    """What torch.compile would bring, in words."""
    if compiled is None:
        return "`torch.compile` was not measured: there is no C++ compiler here, which it needs."
    after = compiled["pays_after"]
    pays = "so that it never pays" if after is None else f"so that it pays after {after:,} examples"
    return (
        "`torch.compile` of the base for any shape: a plain loop over the same batches takes "
        f"1/{compiled['ratio']:.2f} of the time, after {compiled['setting_up']:.0f} s of compiling, "
        f"{pays}. The engine leaves it off."
    )


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--rows", type=int, default=400, help="rows of the sample; 80 %% are trained on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bench = opened(arguments.repetitions, arguments.rows)
    found = list(bench.comparisons())
    about, memory = described(bench), memory_above_the_base()
    write_json(
        HERE / "engine.json",
        {
            "command": "make bench",
            "machine": about,
            "comparisons": [asdict(one) for one in found],
            "memory_above_the_base_mb": memory,
        },
    )
    text = table(found, about, memory)
    write_text(HERE / "engine.md", text)
    log.info("%s", text)


if __name__ == "__main__":
    main()
