"""What a training says while it goes on: a bar on a terminal, lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from beft.inference.runs import Run
from beft.progress import LINE_SECONDS

EVENTS = logging.getLogger("beft.training.events")
"""Takes how far a pass is as structured records, at the level DEBUG: their attribute ``event`` is a JSON object.

``{"pass": NAME, "done": STEPS, "all": STEPS}`` about once a second, and after each epoch of a run the same with
``"run"``, ``"runs"`` (how many the pass has) and ``"epoch"``, the epoch's record by name.
"""

_EVENT_SECONDS = 1.0
_SMOOTH = 0.9  # the share of the losses before in the loss that is shown


class Progress:
    """Tells how a pass goes on.

    Args:
        say: Takes one line of text at a time.
        bar: Whether to show a bar; None: when stderr is a terminal.
    """

    def __init__(self, say: Callable[[str], None], *, bar: bool | None = None) -> None:
        self.say = say
        self._shows_bar = sys.stderr.isatty() if bar is None else bar
        self._bar: Any = None
        self._loss: float | None = None
        self._metrics: dict[str, float] = {}

    def start(
        self,
        runs: Sequence[Run],
        total: Sequence[int],
        first: Sequence[int],
        rows: int,
        parameters: Sequence[int],
    ) -> None:
        """Say what is about to be trained.

        Args:
            total: Steps of each run.
            first: Steps of each run that a checkpoint holds.
            rows: Rows of an epoch.
            parameters: Trainable parameters of each run.
        """
        self._name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
        self._total, self._first, self._began, self._told = list(total), sum(first), time.monotonic(), time.monotonic()
        self._examples, self._loss, self._metrics = 0, None, {}
        self._done, self._reported = sum(first), float("-inf")
        epochs = sorted({run.settings.epochs for run in runs})
        self.say(
            f"{self._name}: {_range(parameters)} trainable parameters, {rows} rows, {_range(epochs)} epochs, "
            f"{sum(total)} steps" + (f", continued at step {sum(first)}" if any(first) else "")
        )
        if self._shows_bar:
            self._bar = tqdm(total=sum(total), initial=sum(first), desc=self._name, unit="step", leave=False)

    def step(self, examples: int, steps: Sequence[int], alive: int, loss: float) -> None:
        """One step of the pass was taken.

        Args:
            examples: Rows of all runs in it.
            steps: Steps that each run has taken.
            alive: Runs that took part.
            loss: The mean loss of these rows.
        """
        self._examples += examples
        self._loss = loss if self._loss is None else _SMOOTH * self._loss + (1 - _SMOOTH) * loss
        now = time.monotonic()
        self._done = sum(steps)
        if now - self._reported > _EVENT_SECONDS:
            self._reported = now
            self._report()
        done = self._done - self._first
        rate = self._examples / max(1e-9, now - self._began)
        if self._bar is not None:
            shown = {"examples/s": f"{rate:.0f}", "alive": alive, "loss": f"{self._loss:.3f}"}
            if self._metrics:
                shown["dev"] = _range(list(self._metrics.values()), ".3f")
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(sum(steps) - self._bar.n)
        elif now - self._told > LINE_SECONDS or done == 10 * len(steps):
            left = (now - self._began) / max(1, done) * (sum(self._total) - sum(steps))
            several = f", {alive} runs alive" if len(steps) > 1 else ""
            self.say(
                f"{self._name}: step {sum(steps)}/{sum(self._total)}, {rate:.0f} examples/s{several}, "
                f"loss {self._loss:.3f}, about {left:.0f} s left"
            )
            self._told = now

    def epoch(self, run: Run, record: Mapping[str, Any]) -> None:
        """An epoch of a run has ended.

        Args:
            record: What was measured, by name.
        """
        self._report(run=run.name, runs=len(self._total), epoch=dict(record))
        if "dev_metric" in record:
            self._metrics[run.name] = record["dev_metric"]
        numbers = ", ".join(f"{key} {value:.4f}" for key, value in record.items() if isinstance(value, float))
        line = f"{run.name}: epoch {record['epoch']}/{run.settings.epochs}, {numbers}"
        if self._bar is None:
            self.say(line)
        else:
            self._bar.write(line, file=sys.stderr)

    def _report(self, **further: Any) -> None:
        if EVENTS.isEnabledFor(logging.DEBUG):
            event = {"pass": self._name, "done": self._done, "all": sum(self._total), **further}
            EVENTS.debug("%s", self._name, extra={"event": event})

    def stop(self) -> None:
        """The pass has ended, well or not."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _range(values: Sequence[float], form: str = ",") -> str:
    low, high = min(values), max(values)
    return f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
