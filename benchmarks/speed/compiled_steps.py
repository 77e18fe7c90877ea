"""Whether torch.compile and CUDA graphs pay for a training step of the engine, where they have it easiest.

All batches have one shape, so that nothing is compiled or recorded twice.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from beft.inference.runs import LabelledRows, Run
from beft.models.classifier import Classifier
from beft.training.engine.bias_parameters import BiasParameters
from beft.training.engine.progress import Progress
from beft.training.engine.trainer import TrainingPass

AS_IT_IS = "as it is"


@dataclass(frozen=True)
class CompiledSteps:
    """One way to compute a step.

    Attributes:
        first: Seconds of the first step, in which it is compiled.
        step: Median seconds of the later half of the steps.
        failed: Why it did not run; nothing was measured then.
    """

    first: float | None
    step: float | None
    failed: str | None = None


class StepClock(Progress):
    """Notes when each step of a pass ends, what the GPU still had to do included."""

    def __init__(self) -> None:
        super().__init__(lambda line: None, bar=False)
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def step(self, examples: int, steps: Sequence[int], alive: int, loss: float) -> None:
        """One step of the pass was taken."""
        super().step(examples, steps, alive, loss)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def ways(device: str) -> dict[str, dict[str, Any] | None]:
    """The ways to compute a step, and what torch.compile is asked for; on a CPU no code is generated."""
    if device == "cpu":
        return {AS_IT_IS: None, "torch.compile": {"backend": "eager"}}
    return {AS_IT_IS: None, "torch.compile": {}, "torch.compile, CUDA graphs": {"mode": "reduce-overhead"}}


def measure(classifier: Classifier, rows: LabelledRows, run: Run, device: str) -> dict[str, CompiledSteps]:
    """Train one run in every way; a way that fails says why."""
    found = {}
    for name, options in ways(device).items():
        clock = StepClock()
        try:
            with compiled(classifier, options):
                TrainingPass(
                    classifier,
                    rows,
                    None,
                    [run],
                    lambda probabilities, labels: 0.0,
                    parameters=BiasParameters(classifier.model, [run]),
                    progress=clock,
                ).results()
        except Exception as error:  # what compilers raise has nothing in common
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            found[name] = CompiledSteps(None, None, f"{type(error).__name__}: {reason}")
        else:
            found[name] = CompiledSteps(clock.seconds[0], median(clock.seconds[len(clock.seconds) // 2 :]))
    return found


@contextmanager
def compiled(classifier: Classifier, options: Mapping[str, Any] | None) -> Iterator[None]:
    """Compile the classifier's model for as long as the context lasts; nothing happens without options."""
    if options is None:
        yield
        return
    model = classifier.model
    model.forward = torch.compile(model.forward, **options)
    try:
        yield
    finally:
        del model.__dict__["forward"]
        torch.compiler.reset()
