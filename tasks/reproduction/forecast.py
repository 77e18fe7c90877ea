"""forecast: how long a base takes for the rows of each dataset, measured on one batch before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from beft.datasets.prepared import PreparedData
from beft.files import read_json, write_json
from beft.training.engine.cost import estimate
from beft.training.session import open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings

FORECAST = "forecast.json"
_FORWARD = 1 / 3
"""A forward pass as a share of a forward and a backward one."""

_REPEATS = 3
"""The fastest counts: a machine that is busy with something else for a moment only slows."""


@dataclass(frozen=True)
class Forecast:
    """What one base takes for the rows of one dataset.

    Attributes:
        seconds_per_token: Of a forward and a backward pass.
        rows: Split -> rows, those of train and dev as the protocol trains on them.
        tokens: Split -> tokens, padding not counted.
    """

    seconds_per_token: float
    rows: dict[str, int]
    tokens: dict[str, int]

    def steps(self, epochs: int, batch_size: int) -> int:
        """Optimiser steps of one run."""
        return epochs * -(-self.rows["train"] // batch_size)

    def seconds(self, epochs: int) -> float:
        """About how long one run takes: training, dev after every epoch, test at the end."""
        learnt = epochs * (self.tokens["train"] + _FORWARD * self.tokens["dev"])
        return self.seconds_per_token * (learnt + _FORWARD * self.tokens["test"])

    @classmethod
    def load(cls, folder: Path, key: str) -> Self:
        """What the step found for one of its inputs."""
        return cls(**read_json(folder / FORECAST)[key])


def forecast(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write ``forecast.json``: a ``Forecast`` for each input, which is named ``DATASET`` or ``DATASET/ANYTHING``.

    Raises:
        InputError: The base cannot be reached.
    """
    found: dict[str, Any] = {}
    for key, prepared in inputs.items():
        session = open_session(settings, PreparedData.from_folder(prepared))
        sample, test = session.sample, session.rows("test")
        parts = {"train": sample.train, "dev": sample.dev, "test": test}
        rows = min(settings.train.batch_size, len(sample.train))
        costs = [estimate(session.classifier, sample.train, rows) for _ in range(_REPEATS)]
        found[key] = {
            "seconds_per_token": min(cost.seconds / cost.tokens for cost in costs),
            "rows": {split: len(part) if part else 0 for split, part in parts.items()},
            "tokens": {split: int(part.encoded.lengths.sum()) if part else 0 for split, part in parts.items()},
        }
    write_json(out / FORECAST, found)
    return {key: one["rows"]["train"] for key, one in found.items()}


forecast_step = Step(
    forecast,
    reads=("prepare",),
    settings=(*CLASSIFIER_SECTIONS, "train.batch_size"),
    per_dataset=False,
    computes=True,
    isolated=True,
    tags=("gpu",),
)
