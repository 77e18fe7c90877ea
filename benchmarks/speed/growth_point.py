"""Time and memory of one pass of a given size, in its own process: python -m benchmarks.speed.growth_point JSON."""

import json
import math
import statistics
import sys
from dataclasses import asdict, dataclass

from beft.inference.runs import Run, finished
from beft.models.device import resolve_compute, set_threads
from beft.settings import BaseSettings
from beft.sites.site import find_sites
from beft.training.engine.cost import saved_bytes
from beft.training.engine.fit import fit, training_time
from beft.training_settings import TrainingSettings
from benchmarks.common.peak import ResidentPeak
from benchmarks.common.random_models import Shape, random_classifier, random_rows

HEAD_WIDTH = 64
REPETITIONS = 3
"""Trainings of a few steps whose median counts, after one of a single step that does not."""


@dataclass(frozen=True)
class Point:
    """A pass to be measured.

    Attributes:
        runs: Runs in the pass.
        tokens: Tokens of every row.
        layers: Layers of the model, a BERT of random weights.
        width: Its width; heads of 64, feed-forward layers four times as wide.
        batch_size: Rows of a run's batch.
        seconds: About how long to measure; longer where three steps take longer.
    """

    runs: int = 1
    tokens: int = 32
    layers: int = 6
    width: int = 384
    batch_size: int = 16
    seconds: float = 1.5

    @property
    def shape(self) -> Shape:
        """The sizes of the model."""
        return Shape("bert", self.layers, self.width, max(1, self.width // HEAD_WIDTH), 4 * self.width)


@dataclass(frozen=True)
class Cost:
    """What a step of the pass took, and what was estimated before.

    Attributes:
        seconds: Wall time of a step of all runs.
        bytes: The greatest memory above the loaded base.
        estimated_seconds: What ``beft.training.engine.timing`` says of the same step.
        estimated_bytes: What it says of the activations that are kept.
        steps: Steps of each training that was timed.
    """

    seconds: float
    bytes: int
    estimated_seconds: float
    estimated_bytes: int
    steps: int


def measure(point: Point) -> Cost:
    """Train the value biases and the head of every run for a few steps; call it in a process of its own."""
    compute = resolve_compute(BaseSettings(device="cpu"))
    set_threads(compute)
    classifier = random_classifier(point.shape, dtype=compute.dtype)
    sites, head = find_sites(classifier.model, ["value"]), classifier.head_parameters()
    settings = TrainingSettings(epochs=1, batch_size=point.batch_size)
    runs = [Run(f"seed {seed}", sites, head, seed, settings, "last") for seed in range(point.runs)]

    def seconds_of(steps: int) -> float:
        rows = random_rows([point.tokens] * (steps * point.batch_size), point.shape.vocabulary)
        results = fit(
            classifier,
            rows,
            None,
            runs,
            metric=lambda probabilities, labels: 0.0,
            at_once=point.runs,
            progress=lambda line: None,
        )
        return sum(finished(result).seconds for result in results) / steps

    peak = ResidentPeak()
    first = seconds_of(1)
    steps = min(20, max(1, math.ceil(point.seconds / REPETITIONS / first)))
    seconds = statistics.median(seconds_of(steps) for _ in range(REPETITIONS))
    memory = peak.above()
    rows = random_rows([point.tokens] * point.batch_size, point.shape.vocabulary)
    estimated_seconds = point.runs * training_time(classifier, rows, None, runs).seconds(rows, None, 1)
    return Cost(seconds, memory, estimated_seconds, point.runs * saved_bytes(classifier, rows, point.batch_size), steps)


def main(arguments: str) -> None:
    """Print the cost of a point, as JSON."""
    sys.stdout.write(json.dumps(asdict(measure(Point(**json.loads(arguments))))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
