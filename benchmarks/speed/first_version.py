"""One training of the value biases against commit b7ab16f, the first version: part of `make bench`.

Both sides get the same prepared rows, recipe, seed and threads, each in a process of its own, in turns. The first
version runs with OMP_WAIT_POLICY=PASSIVE, as its pipeline ran it. Its source is the one that the golden test keeps.
Writes benchmarks/speed/first_version.json and .md. SST-2 and STS-B are measured where BEFT_DATA_DIR names the
folder that holds them.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from beft.datasets.reading.loaders import whereabouts
from beft.datasets.reading.local import VARIABLE
from beft.datasets.registry import find_dataset
from beft.files import write_json, write_text
from beft.models.device import resolve_compute
from beft.models.machine import load_average
from beft.settings import BaseSettings, SplitSettings
from benchmarks.common import machine
from benchmarks.common.intervals import Interval
from benchmarks.common.prepared import ROOT, prepared_data

HERE = Path(__file__).parent
KEPT = ROOT / "tests/golden/workspace.tar.xz"
REQUIRED = 0.5
DATASETS = ("rotten_tomatoes", "sst2", "stsb")

log = logging.getLogger("beft.bench")

FIRST_VERSION = """
import json, sys
from beft.adaptation import train_terms
from beft.opened import open_classifier
from beft.settings import Settings
values, prepared, dataset = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
settings = Settings.from_mapping(values)
from pathlib import Path
opened = open_classifier(settings, Path(prepared), dataset)
result = train_terms(opened.classifier, opened.sample(), settings, opened.training(settings.train), ["value"],
                     progress=lambda line: None)
print(json.dumps({"seconds": result.seconds, "dev": [epoch["dev_metric"] for epoch in result.history]}))
"""

TODAY = """
import json, sys
from pathlib import Path
from beft.datasets.prepared import PreparedData
from beft.settings import Settings
from beft.training.opening import open_session
from beft.training.target import train_terms
values, prepared = json.loads(sys.argv[1]), sys.argv[2]
settings = Settings.from_mapping(values)
session = open_session(settings, PreparedData.from_folder(Path(prepared)))
result = train_terms(session.classifier, session.sample, settings, session.training(settings.train), ["value"],
                     progress=lambda line: None)
print(json.dumps({"seconds": result.seconds, "dev": [epoch["dev_metric"] for epoch in result.history]}))
"""


@contextmanager
def first_version() -> Iterator[Path]:
    """The source of b7ab16f, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="beft-first-") as name:
        with tarfile.open(KEPT) as archive:
            archive.extractall(name, filter="data")
        source = Path(name) / "source"
        with zipfile.ZipFile(next(Path(name).glob("mlflow/artifacts/models/*/artifacts/source.zip"))) as archive:
            archive.extractall(source)
        yield source


def train(
    program: str, source: Path, settings: dict[str, Any], prepared: Path, dataset: str, **environment: str
) -> Any:
    """What one training in a process of its own prints.

    Raises:
        RuntimeError: The process failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(settings), str(prepared), dataset],
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the training with the source in {source} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def settings_of(dataset: str, seed: int, threads: int) -> dict[str, Any]:
    """The default settings of one dataset, with the sample and the seed of a repetition, as both versions read them."""
    return {
        "datasets": {dataset: {"size": "low"}},
        "seed": seed,
        "split": {"draw": seed},
        "base": {"threads": threads},
    }


def table(about: dict[str, Any], found: Sequence[dict[str, Any]]) -> str:
    """What was measured, as Markdown: a row a training, then the mean of each dataset."""
    lines = [
        "# A training against the first version",
        "",
        f"`make bench`, {about['date']}; {about['cpu']}, {about['threads']} threads, {about['precision']}; torch "
        f"{about['torch']}. Base {about['base']}, value biases, the default recipe and sizes; seed and sample change "
        "together. Commit b7ab16f runs as its pipeline ran it (OMP_WAIT_POLICY=PASSIVE). Both sides train the same "
        "rows for the same number of epochs, in turns, each in a process of its own; seconds of the training alone. "
        f"The load average before the measurement was {about['load']:.1f}.",
        "",
        "| dataset | seed | epochs | b7ab16f, s | today, s | today / b7ab16f | dev, b7ab16f | dev, today |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one['dataset']} | {one['seed']} | {one['epochs']} | {one['first']:.1f} | {one['today']:.1f} "
            f"| {one['today'] / one['first']:.2f} | {100 * one['first_dev']:.1f} | {100 * one['today_dev']:.1f} |"
            for one in found
        ),
        "",
        f"| dataset | today / b7ab16f, mean [95 %] (required {REQUIRED}) | gain on dev, points, mean [95 %] |",
        "|---|---|---|",
    ]
    for dataset in dict.fromkeys(one["dataset"] for one in found):
        rows = [one for one in found if one["dataset"] == dataset]
        ratios, gains = (
            [one["today"] / one["first"] for one in rows],
            [one["today_dev"] - one["first_dev"] for one in rows],
        )
        if len(rows) > 1:
            ratio = Interval.of(ratios)
            gain = Interval.of(gains).percent("+")
            lines.append(f"| {dataset} | {ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] | {gain} |")
        else:
            lines.append(f"| {dataset} | {mean(ratios):.2f} | {100 * mean(gains):+.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--threads", type=int, default=BaseSettings().threads)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    compute = resolve_compute(BaseSettings(threads=options.threads))
    about = {**machine.describe(compute), "base": BaseSettings().source, "load": load_average() or 0.0}
    here = [
        name
        for name in options.datasets
        if name not in ("sst2", "stsb") or whereabouts(find_dataset(name, ROOT), ROOT) == VARIABLE
    ]
    found = []
    with first_version() as source:
        for seed in range(options.seeds):
            for dataset in here:
                settings = settings_of(dataset, seed, compute.threads)
                with prepared_data(dataset, "low", SplitSettings(draw=seed)) as prepared:
                    first = train(FIRST_VERSION, source, settings, prepared, dataset, OMP_WAIT_POLICY="PASSIVE")
                    today = train(TODAY, ROOT, settings, prepared, dataset)
                one = {
                    "dataset": dataset,
                    "seed": seed,
                    "epochs": len(today["dev"]),
                    "first": first["seconds"],
                    "today": today["seconds"],
                    "first_dev": max(first["dev"]),
                    "today_dev": max(today["dev"]),
                    "first_history": first["dev"],
                    "today_history": today["dev"],
                }
                if len(first["dev"]) != one["epochs"]:
                    raise RuntimeError(f"{dataset}: {len(first['dev'])} epochs there, {one['epochs']} here")
                log.info("%s, seed %s: %.1f s, %.1f s", dataset, seed, first["seconds"], today["seconds"])
                found.append(one)
    write_json(options.out / "first_version.json", {"about": about, "found": found})
    write_text(options.out / "first_version.md", table(about, found))


if __name__ == "__main__":
    main()
