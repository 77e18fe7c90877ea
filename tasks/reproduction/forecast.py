"""forecast: how long a base takes for the rows of each dataset, measured on a few steps before anything is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from beft.datasets.prepared import PreparedData
from beft.files import read_json, write_json
from beft.sites.site import find_sites
from beft.training.engine.fit import training_time
from beft.training.opening import open_session
from beft.training.target import planned_run
from beft.training_settings import TrainingSettings
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings

FORECAST = "forecast.json"


@dataclass(frozen=True)
class Forecast:
    """What one base takes for the rows of one dataset.

    Attributes:
        train_seconds: For each token that is trained on.
        predict_seconds: For each token that is predicted.
        rows: Split -> rows, those of train and dev as the protocol trains on them.
        tokens: Split -> tokens, padding not counted.
    """

    train_seconds: float
    predict_seconds: float
    rows: dict[str, int]
    tokens: dict[str, int]

    def steps(self, epochs: int, batch_size: int) -> int:
        """Optimiser steps of one run."""
        return epochs * -(-self.rows["train"] // batch_size)

    def seconds(self, epochs: int) -> float:
        """About how long one run takes: training, dev after every epoch, test at the end."""
        predicted = epochs * self.tokens["dev"] + self.tokens["test"]
        return self.train_seconds * epochs * self.tokens["train"] + self.predict_seconds * predicted

    @classmethod
    def load(cls, folder: Path, key: str) -> Self:
        """What the step found for one of its inputs."""
        return cls(**read_json(folder / FORECAST)[key])


_DECIDES = ("batch_size", "dropout", "micro_batch_size", "activation_checkpointing")
"""What decides of the settings of a training how long a step takes."""


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
        sites = find_sites(session.classifier.model, ["value"], add=True)
        training = TrainingSettings(**{name: getattr(settings.train, name) for name in _DECIDES})
        run = planned_run(session.classifier, sample, session.settings, training, "forecast", sites, {})
        time = training_time(session.classifier, sample.train, test, [run])
        found[key] = {
            "train_seconds": time.train,
            "predict_seconds": time.dev,
            "rows": {split: len(part) if part else 0 for split, part in parts.items()},
            "tokens": {split: int(part.encoded.lengths.sum()) if part else 0 for split, part in parts.items()},
        }
    write_json(out / FORECAST, found)
    return {key: one["rows"]["train"] for key, one in found.items()}


forecast_step = Step(
    forecast,
    reads=("prepare",),
    settings=(*CLASSIFIER_SECTIONS, *(f"train.{name}" for name in _DECIDES)),
    per_dataset=False,
    computes=True,
    isolated=True,
    tags=("gpu",),
)
