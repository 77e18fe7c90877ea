"""The memory that a training takes above its loaded base, in its own process: python -m benchmarks.speed.memory KIND.

KIND is value or full, without dropout, or with it: value+dropout, full+dropout.
"""

import sys
from dataclasses import replace

from beft.models.base import load_classifier
from beft.models.device import resolve_compute, set_threads
from beft.models.reference import resolve_base
from beft.settings import BaseSettings
from beft.training.engine.fit import fit
from benchmarks.common import peers
from benchmarks.common.peak import ResidentPeak
from benchmarks.common.work import PLAIN, SOURCE, accuracy, run_of, sample


def main(kind: str) -> None:
    """Print the megabytes of the greatest resident size above that with the base loaded and rows encoded."""
    compute = resolve_compute(BaseSettings(source=SOURCE))
    set_threads(compute)
    reference = resolve_base(SOURCE)
    classifier = load_classifier(reference, ["negative", "positive"], compute=compute, pooling="model")
    rows = sample(classifier, "rotten_tomatoes", 200)
    method, _, dropout = kind.partition("+")
    settings = PLAIN.model_copy(update={"dropout": bool(dropout)})
    peak = ResidentPeak()
    if method == "value":
        run = replace(run_of(classifier, "value", ["value"]), settings=settings)
        fit(classifier, rows, None, [run], metric=accuracy, progress=lambda line: None)
    else:
        peers.full_fine_tuning(classifier, rows, settings, keep_base=False)
    sys.stdout.write(f"{peak.above() / 1e6:.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1])
