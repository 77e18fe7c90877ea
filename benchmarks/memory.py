"""The memory that a training takes above its loaded base, in a process of its own: python -m benchmarks.memory KIND."""

import sys
from pathlib import Path

import psutil

from beft.base import load_classifier, resolve_base
from beft.device import resolve_compute, set_threads
from beft.settings import BaseSettings
from beft.training import fit
from benchmarks import peers
from benchmarks.engine import PLAIN, SOURCE, accuracy, run_of, sample


def main(kind: str) -> None:
    """Print the megabytes of the greatest resident size above that with the base loaded and rows encoded."""
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    reference = resolve_base(SOURCE)
    classifier = load_classifier(reference, ["negative", "positive"], compute=compute, pooling="model")
    rows = sample(classifier, "rotten_tomatoes", 200)
    Path("/proc/self/clear_refs").write_text("5")  # the greatest resident size counts from here
    before = psutil.Process().memory_info().rss
    if kind == "value":
        run = run_of(classifier, "value", ["value"])
        fit(classifier, rows, None, [run], metric=accuracy, progress=lambda line: None)
    else:
        peers.full_fine_tuning(classifier.model, rows, PLAIN)
    peak = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    sys.stdout.write(f"{(peak - before) / 1e6:.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1])
