"""The rows that a training learns from, and how many there are under each protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from beft.datasets.prepared import Rows
from beft.encoding.examples import LabelledRows, Predictions
from beft.inference.predictions import score_rows
from beft.metrics.label_sets import scores_at_best
from beft.models.classifier import Classifier
from beft.settings import Settings
from beft.training_settings import FEW_ROWS_A_LABEL, MIN_CONTRASTIVE_BATCH, ProbeSettings, TrainingSettings


@dataclass(frozen=True)
class Sample:
    """The rows that may be learnt from: train, and dev that chooses; dev is None under ``protocol: paper``."""

    train: LabelledRows
    dev: LabelledRows | None
    metric: str

    @property
    def truncated(self) -> int:
        """How many texts were longer than the maximal length and were cut."""
        return self.train.encoded.truncated + (self.dev.encoded.truncated if self.dev else 0)


def make_sample(
    classifier: Classifier, train: Rows, dev: Rows, *, max_length: int, metric: str, protocol: str = "beft"
) -> Sample:
    """Encode the sample; under ``protocol: paper`` train and dev are one and nothing is left to choose with."""
    if protocol == "paper":
        return Sample(classifier.examples(joined(train, dev), max_length, training=True), None, metric)
    return Sample(classifier.examples(train, max_length, training=True), classifier.examples(dev, max_length), metric)


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of both, in this order."""

    def both(name: str) -> Any:
        one, other = getattr(first, name), getattr(second, name)
        return None if one is None or other is None else [*one, *other]

    kept = {name: [*values, *second.kept[name]] for name, values in first.kept.items() if name in second.kept}
    return replace(first, **{field.name: both(field.name) for field in fields(Rows) if field.name != "kept"}, kept=kept)


def learnt_rows(rows: Mapping[str, int], protocol: str) -> int:
    """How many of the rows of each split a training learns from; under ``protocol: paper`` those of dev as well."""
    return rows["train"] + (rows["dev"] if protocol == "paper" else 0)


def settings_of(
    section: ProbeSettings,
    settings: Settings,
    dataset: str,
    rows: int,
    *,
    classes: int = 0,
    rate_share: float = 1.0,
) -> TrainingSettings:
    """A training section with what the dataset's own settings replace; a loss and a length that fit so many rows.

    Args:
        rows: Those that are learnt from.
        classes: Of a classification with a head; 0 for everything else.
        rate_share: How much of the usual learning rate suits the base; counts where no rate is named.
    """
    own = settings.datasets[dataset]
    changes: dict[str, Any] = {} if own.epochs is None else {"epochs": own.epochs}
    if own.learning_rate is not None:
        changes |= {"learning_rate": own.learning_rate, "learning_rates": ()}
    loss: str | None = section.loss
    if loss is None:
        loss = settings.train.loss
        changes["temperature"] = settings.train.temperature
    if loss == "auto":
        contrastive = contrastive_by_default(settings, rows, classes, section.batch_size)
        loss = "contrastive" if contrastive else "cross_entropy"
    return section.model_copy(update={**changes, "loss": loss}).resolved(rows, rate_share)


def contrastive_by_default(settings: Settings, rows: int, classes: int, batch_size: int) -> bool:
    """Whether ``train.loss: auto`` is contrastive: for few rows a label, unless a mask token is read.

    Args:
        rows: Those that are learnt from.
        classes: Of a classification with a head; 0 for everything else.
        batch_size: Of the training; a small batch has no pairs of two labels.
    """
    few = rows < classes * FEW_ROWS_A_LABEL and batch_size >= MIN_CONTRASTIVE_BATCH
    return few and settings.protocol != "paper" and settings.head.pooling != "mask"


@dataclass(frozen=True)
class DevMetric:
    """A metric over some rows, as ``fit`` takes it; without rows (there is no dev) it is never asked."""

    name: str
    rows: LabelledRows | None

    def __call__(self, predictions: Predictions, _: Any) -> float:
        """Its value for the predictions of the rows; of label sets, at the thresholds that are best on them."""
        assert self.rows is not None
        if self.rows.labels.ndim == 2 and self.rows.words is None and not isinstance(predictions, list):
            predictions = scores_at_best(predictions, self.rows.labels)
        return score_rows(self.name, predictions, self.rows)
