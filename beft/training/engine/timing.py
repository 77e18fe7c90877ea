"""How long a training takes, measured before it starts: a few of its own steps, and a part of its dev rows.

The steps are those of the real loop, on batches of its rows from the short to the long ones. So all that a step does
is counted: padding, how far the backward pass goes, the runs that share the pass, dropout, and the optimiser.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from beft.encoding.tokenization import token_batches
from beft.inference.batching import tokens_at_once
from beft.inference.predictions import measure_runs
from beft.inference.runs import LabelledRows, Run
from beft.models.classifier import Classifier
from beft.sites.batch_axis import RowAxis
from beft.training.engine.bias_parameters import BiasParameters
from beft.training.engine.progress import Progress
from beft.training.engine.trainer import TrainingPass
from beft.training.objectives.batches import run_batches

MEASURED_SECONDS = 2.5
"""How long the steps of a pass are measured, about."""

_BATCHES = 4
_MIN_STEPS, _MAX_STEPS = 5, 24
_SHARE = 1 / 20  # of the training's own steps, so that a short one is not measured for longer than it takes
_EPOCHS = 1000  # more than are measured: the learning rate stays low, so that nothing diverges


@dataclass(frozen=True)
class TokenTime:
    """The time of a run, one of those that share its pass, for each token, padding not counted.

    Attributes:
        train: Seconds for a token that is trained on, once.
        dev: Seconds for a token of dev, after each epoch; 0 without dev.
    """

    train: float
    dev: float

    def seconds(self, train: LabelledRows, dev: LabelledRows | None, epochs: int) -> float:
        """About how many seconds one of the runs takes for some epochs over the rows, each with its look at dev."""
        on_dev = 0.0 if dev is None else self.dev * int(dev.tokens.sum())
        return epochs * (self.train * int(train.tokens.sum()) + on_dev)


def time_pass(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    runs: Sequence[Run],
    axes: dict[str, RowAxis],
    *,
    seconds: float = MEASURED_SECONDS,
) -> TokenTime:
    """Measure a few steps of a pass, and what it takes on dev; neither the base nor any random generator is changed.

    Args:
        runs: Those of the pass.
        axes: Where the modules of the runs' sites keep the rows of a batch; needed for two runs or more.
        seconds: No step begins after so long, but for the second one.
    """
    rows = train.take(_typical_rows(train, runs[0]))
    measured = [
        replace(
            run,
            select="last",
            rows=None,
            settings=run.settings.model_copy(update={"epochs": _EPOCHS, "warmup_fraction": 0.5}),
        )
        for run in runs
    ]
    steps = max(run.settings.epochs for run in runs) * -(-len(train) // min(run.settings.batch_size for run in runs))
    clock = _Clock(min(max(int(_SHARE * steps), _MIN_STEPS), _MAX_STEPS), seconds)
    parameters = BiasParameters(classifier.model, measured, axes)
    with suppress(_EnoughMeasured):
        TrainingPass(classifier, rows, None, measured, _no_metric, parameters=parameters, progress=clock).results()
    tokens = [sum(of_runs) for of_runs, _ in zip(_tokens_of_steps(rows, measured), clock.taken, strict=False)]
    of_dev = 0.0 if dev is None else _seconds_of_dev_token(classifier, dev, len(runs), parameters)
    return TokenTime(_seconds_of_token(clock.taken, tokens), of_dev)


class _EnoughMeasured(Exception):
    """Ends a pass between two steps."""


class _Clock(Progress):
    """Takes the seconds of each step, and ends the pass when it has enough of them."""

    def __init__(self, steps: int, seconds: float) -> None:
        super().__init__(lambda line: None, bar=False)
        self._steps, self._seconds = steps, seconds
        self.taken: list[float] = []

    def start(self, *args: Any) -> None:
        self._began = self._mark = time.perf_counter()

    def step(self, *args: Any) -> None:
        now = time.perf_counter()
        self.taken.append(now - self._mark)
        self._mark = now
        if len(self.taken) >= self._steps or (len(self.taken) > 1 and now - self._began > self._seconds):
            raise _EnoughMeasured

    def epoch(self, *args: Any) -> None:
        self._mark = time.perf_counter()


def _no_metric(predictions: Any, labels: Any) -> float:
    return 0.0


def _typical_rows(rows: LabelledRows, run: Run) -> np.ndarray:
    """The rows of some batches of an epoch, from that of the shortest texts to that of the longest."""
    batches = run_batches(rows, run, 1)
    batches.sort(key=lambda batch: float(rows.lengths[batch].mean()))
    count = min(_BATCHES, len(batches))
    return np.concatenate([batches[(2 * at + 1) * len(batches) // (2 * count)] for at in range(count)])


def _tokens_of_steps(rows: LabelledRows, runs: Sequence[Run]) -> Iterator[tuple[int, ...]]:
    """The tokens of each step's batch of each run."""

    def of_run(run: Run) -> Iterator[int]:
        for epoch in range(1, _EPOCHS + 1):
            for batch in run_batches(rows, run, epoch):
                yield int(rows.tokens[batch].sum())

    return zip(*map(of_run, runs), strict=False)


def _seconds_of_token(taken: Sequence[float], tokens: Sequence[int]) -> float:
    """The sum of the batches' median times over that of their tokens; a batch is known by its tokens.

    The first time of a batch does not count where there is another: what is set up once is in it.
    """
    of_batch: dict[int, list[float]] = defaultdict(list)
    for one, count in list(zip(taken, tokens, strict=True))[1 if len(taken) > 1 else 0 :]:
        of_batch[count].append(one)
    medians = [median(times[1:] or times) for times in of_batch.values()]
    return sum(medians) / max(1, sum(of_batch))


def _seconds_of_dev_token(classifier: Classifier, dev: LabelledRows, runs: int, parameters: BiasParameters) -> float:
    """The second time of a batch of middle length under all runs, over its tokens of all runs."""
    batches = list(token_batches(dev.lengths, tokens_at_once(classifier, None, runs)))
    rows = dev.take(batches[len(batches) // 2])
    seconds = 0.0
    with parameters.attached() as choose:
        for _ in range(2):
            began = time.perf_counter()
            measure_runs(classifier, rows, _no_metric, range(runs), choose=choose)
            seconds = time.perf_counter() - began
    return seconds / (runs * int(rows.tokens.sum()))
