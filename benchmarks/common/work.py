"""What the measurements of the engine train: rows, settings and runs as the published code has them."""

from typing import Any

import numpy as np

from beft.datasets.prepared import load_split
from beft.inference.runs import LabelledRows, Run
from beft.models.classifier import Classifier
from beft.settings import BaseSettings, SplitSettings
from beft.sites.site import find_sites
from beft.training_settings import TrainingSettings
from benchmarks.common.prepared import prepared_data

SOURCE = BaseSettings().source
PLAIN = TrainingSettings(
    epochs=1,
    learning_rate=4e-4,
    head_learning_rate=None,
    schedule="linear",
    warmup_fraction=0.0,
    batch_size=16,
    dropout=True,
)
"""What both sides are asked to do: the published optimiser, one epoch."""


def sample(classifier: Classifier, dataset: str, size: int, max_length: int = 128) -> LabelledRows:
    """Labelled rows of a dataset."""
    with prepared_data(dataset, size, SplitSettings()) as prepared:
        return classifier.examples(load_split(prepared, "train"), max_length)


def run_of(classifier: Classifier, name: str, terms: list[str] | None, seed: int = 0, **settings: Any) -> Run:
    """A run of one epoch, as the published code trains it: the pooler's bias and the head with the term."""
    return Run(
        name,
        find_sites(classifier.model, terms),
        classifier.head_parameters("paper"),
        seed,
        PLAIN.model_copy(update=settings),
        "last",
    )


def first_rows(rows: LabelledRows, count: int) -> LabelledRows:
    """The first of some rows."""
    return rows.take(np.arange(count))


def accuracy(probabilities: Any, labels: Any) -> float:
    """The share of rows whose likeliest label is the right one."""
    return float((probabilities.argmax(-1) == labels).mean())
