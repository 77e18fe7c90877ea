"""How good merges are on the dev rows of every dataset: what chooses their options and weights, and never test rows."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from beft.adapters.adapter import Adapter
from beft.encoding.examples import LabelledRows, Predictions
from beft.inference.predictions import predicting_as, score_rows
from beft.inference.together import measure_adapters
from beft.merging.adapters import with_merged
from beft.merging.merged import Merged
from beft.metrics.registry import rank_on_dev
from beft.training.session import Session


@dataclass(frozen=True)
class DevScore:
    """A merge on dev.

    Attributes:
        by_dataset: The metric of each dataset.
        relative: The mean over the datasets of the metric relative to that of the dataset's own adapter, see
            ``relative_to``.
        loss: The mean over the datasets of the mean loss of a row; decides between equal metrics.
    """

    by_dataset: Mapping[str, float]
    relative: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better."""
        return rank_on_dev(self.relative, self.loss)

    def to_json(self) -> dict[str, Any]:
        """The score as JSON values; a loss that is NaN or infinite is None."""
        loss = self.loss if math.isfinite(self.loss) else None
        return {"relative": self.relative, "loss": loss, "by_dataset": dict(self.by_dataset)}


def relative_to(own: float, value: float) -> float:
    """A metric divided by that of a dataset's own adapter.

    Where its own adapter is at zero or below (a correlation can be), one plus the difference, which needs no division.
    """
    return value / own if own > 0 else 1.0 + value - own


@dataclass
class DevRows:
    """The dev rows of every dataset under its own head; a dataset is session for each call, one after the other.

    Args:
        adapters: The datasets' own adapters.
        open_dataset: Opens the classifier of a dataset on its rows.
        planned: How many merges will be measured in all, for the message about the cost.
        progress: Gets a line a dataset before its merges are measured.
    """

    adapters: Mapping[str, Adapter]
    open_dataset: Callable[[str], Session]
    planned: int
    progress: Callable[[str], None]
    _own: dict[str, float] = field(default_factory=dict)

    def measure(self, merges: Sequence[Merged]) -> list[DevScore]:
        """The score of each merge."""
        found: list[dict[str, tuple[float, float]]] = [{} for _ in merges]
        for name in self.adapters:
            session = self.open_dataset(name).with_pooling(self.adapters[name].pooling)
            rows = session.rows("dev")
            if name not in self._own:
                self._own[name] = self._measure_own(session, rows, name)
            measured = _measured(session, rows, [with_merged(self.adapters, name, merged) for merged in merges])
            for result, of_merge in zip(found, measured, strict=True):
                result[name] = of_merge
        return [
            DevScore(
                by_dataset={name: metric for name, (metric, _) in result.items()},
                relative=fmean(relative_to(self._own[name], metric) for name, (metric, _) in result.items()),
                loss=fmean(loss for _, loss in result.values()),
            )
            for result in found
        ]

    def _measure_own(self, session: Session, rows: LabelledRows, name: str) -> float:
        start = time.perf_counter()
        [(metric, _)] = _measured(session, rows, [self.adapters[name]])
        seconds = self.planned * (time.perf_counter() - start)
        self.progress(f"merge: {self.planned} merges on {len(rows)} dev rows of {name} take about {seconds:.0f} s")
        return metric


def _measured(session: Session, rows: LabelledRows, adapters: Sequence[Adapter]) -> list[tuple[float, float]]:
    """The metric of each adapter, and the mean loss of an example.

    All of them have the head of the dataset's own adapter, and its thresholds where labels have some.
    """

    if not adapters:
        return []

    def metric(predictions: Predictions, _: Any) -> float:
        return score_rows(session.metric, predictions, rows)

    batch_tokens = session.settings.evaluate.batch_tokens
    with predicting_as(session.classifier, adapters[0].problem_type):
        found = measure_adapters(session.classifier, adapters, rows, metric, batch_tokens=batch_tokens)
    return [(one["dev_metric"], one["dev_loss"]) for one in found]
