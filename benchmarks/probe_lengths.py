"""Shorter probes against the long one: do they rank the bias terms alike? Part of `make recipes`.

Each draw of each dataset is probed by every recipe of benchmarks/recipe_studies.py that changes rates and epochs. What
counts is the target term, the order of the candidates, and how alike the scores of all terms and layers are.
Writes benchmarks/probe_lengths.json and .md; what is finished is kept in runs/recipes and not trained again.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from beft.datasets.prepared import PreparedData
from beft.files import read_json, sha256_json, sha256_tree, write_json, write_text
from beft.models.device import resolve_compute
from beft.settings import Settings
from beft.training.probe import run_probe
from beft.training.session import open_session
from benchmarks.common import machine
from benchmarks.common.prepared import ROOT, prepared_data
from benchmarks.recipe_studies import PROBES, Probe, shared_epochs
from benchmarks.recipes import settings_of

HERE = Path(__file__).parent
DATASETS = ("rotten_tomatoes", "sst2", "stsb")
log = logging.getLogger("beft.recipes")

Found = dict[str, Any]


def measure(settings: Settings, dataset: str, epochs_share: float) -> Found:
    """The scores of a probe by every method, [terms, layers], its target and the order of its candidates."""
    with prepared_data(dataset, settings.datasets[dataset].size, settings.split) as prepared:
        session = open_session(settings, PreparedData.from_folder(prepared))
        sample, training = session.sample, session.training(settings.probe)
    training = training.model_copy(update={"epochs": shared_epochs(epochs_share, len(sample.train))})
    probe = run_probe(session.classifier, sample, settings, training)
    scores = probe.evidence.scores(settings)
    return {
        "epochs": training.epochs,
        "dev": probe.result.history[probe.result.best_epoch - 1]["dev_metric"],
        "target": scores.selection.term,
        "ranking": [term for term, _ in scores.selection.ranking],
        "tables": {one.method: {term: list(of) for term, of in one.scores.items()} for one in scores.tables},
    }


def finished(probe: Probe, dataset: str, draw: int, threads: int) -> Found:
    """What was measured before with the same settings and source, or is measured now."""
    changes = {
        "probe.learning_rate": probe.learning_rate,
        "probe.head_learning_rate": probe.head_learning_rate,
        "probe.batch_size": probe.batch_size,
    }
    settings = settings_of(dataset, changes, draw, threads)
    asked = ["probe", settings.model_dump(mode="json"), probe.epochs_share, sha256_tree(ROOT / "beft", ".py")]
    path = ROOT / "runs" / "recipes" / f"{sha256_json(asked)[:16]}.json"
    if not path.exists():
        write_json(path, measure(settings, dataset, probe.epochs_share))
    found: Found = read_json(path)
    return found


def correlation(first: Found, second: Found, method: str) -> float:
    """Spearman's correlation of the scores of all terms and layers that both have."""
    pairs = [
        (one, other)
        for term, of_term in first["tables"][method].items()
        for one, other in zip(of_term, second["tables"][method][term], strict=True)
        if one is not None and other is not None
    ]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def table(dataset: str, found: Mapping[str, Sequence[Found]], methods: Sequence[str]) -> list[str]:
    """The probes of a dataset beside the long one, as Markdown."""
    long = next(iter(found.values()))
    lines = [
        f"## {dataset}",
        "",
        "| probe | epochs | dev | targets | same target | same order of candidates | "
        + " | ".join(f"correlation, {method}" for method in methods)
        + " |",
        "|---" * (6 + len(methods)) + "|",
    ]
    for name, draws in found.items():
        pairs = list(zip(long, draws, strict=True))
        lines.append(
            f"| {name} | {draws[0]['epochs']} | {100 * mean(one['dev'] for one in draws):.1f} "
            f"| {', '.join(one['target'] for one in draws)} "
            f"| {sum(one['target'] == of_long['target'] for of_long, one in pairs)} of {len(draws)} "
            f"| {sum(one['ranking'] == of_long['ranking'] for of_long, one in pairs)} of {len(draws)} | "
            + " | ".join(
                f"{mean(correlation(of_long, one, method) for of_long, one in pairs):.2f}" for method in methods
            )
            + " |"
        )
    return [*lines, ""]


def main() -> None:
    """Probe every draw of every dataset by every recipe, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help="those of a folder are in BEFT_DATA_DIR")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--threads", type=int, default=Settings().base.threads)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measured: dict[str, dict[str, list[Found]]] = {}
    for dataset in arguments.datasets:
        measured[dataset] = {name: [] for name in PROBES}
        for draw in range(arguments.draws):
            for name, probe in PROBES.items():
                one = finished(probe, dataset, draw, arguments.threads)
                measured[dataset][name].append(one)
                log.info("%s, draw %d: %s: %s, dev %.3f", dataset, draw, name, one["ranking"], one["dev"])
    compute = resolve_compute(Settings().base.model_copy(update={"threads": arguments.threads}))
    described = machine.describe(compute)
    command = f"python -m benchmarks.probe_lengths {' '.join(sys.argv[1:])}".strip()
    write_json(HERE / "probe_lengths.json", {"command": command, "machine": described, "datasets": measured})
    methods = list(Settings().score.methods)
    lines = [
        "# Shorter probes",
        "",
        f"`{command}`, {described['date']}; {described['cpu']}, {compute.precision}, {compute.threads} threads.",
        f"The default base, a sentence encoder of 22.7 million parameters; {arguments.draws} draws of each dataset. "
        "The first probe is the one that the others are compared with. Correlation: Spearman's, over all terms and "
        "layers, the mean over the draws. Fisher information is taken before the training: it is the same in all.",
        "",
    ]
    for dataset, of_dataset in measured.items():
        lines += table(dataset, of_dataset, methods)
    write_text(HERE / "probe_lengths.md", "\n".join(lines))
    log.info("%s", "\n".join(lines))


if __name__ == "__main__":
    main()
