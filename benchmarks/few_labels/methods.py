"""beft's own ways of training, each from drawn rows to a classifier of other rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from beft.bank.bank import Bank
from beft.comparison.baselines.by_folds import fit_linear_by_folds, linear_folds
from beft.datasets.prepared import Rows
from beft.inference.features import extract_features
from beft.inference.predictions import sequence_outputs
from beft.inference.runs import LabelledRows, RunResult
from beft.models.classifier import Classifier
from beft.settings import Settings
from beft.training.automatic.search import search_and_train
from beft.training.sample import Sample, settings_of
from beft.training.target import train_terms
from beft.training_settings import Loss

MAX_LENGTH = 128
_DATASET = "drawn"


@dataclass(frozen=True)
class Trained:
    """What a method trained.

    Attributes:
        outputs: From encoded rows to outputs [rows, labels].
        numbers: How many numbers were trained, the head's among them.
        chosen: What the method chose by itself; empty where it chooses nothing.
    """

    outputs: Callable[[LabelledRows], Tensor]
    numbers: int
    chosen: str = ""


Method = Callable[[Classifier, Rows, int], Trained]
"""From a classifier, drawn rows and the draw's number; the test rows come later."""


def settings_of_draw(train: Mapping[str, object], seed: int, **sections: Mapping[str, object]) -> Settings:
    """The defaults with some sections changed."""
    return Settings.from_mapping({"seed": seed, "datasets": {_DATASET: {}}, "train": train, **sections})


def logistic_regression(classifier: Classifier, drawn: Rows, seed: int) -> Trained:
    """On standardised frozen features, C by repeated cross-validation on the drawn rows."""
    rows = classifier.examples(drawn, MAX_LENGTH)
    features = extract_features(classifier, rows.encoded, "pooled").double().numpy()
    problem_type, labels = classifier.problem_type, len(classifier.labels)
    folds = linear_folds(problem_type, labels, features, rows, seed)
    fitted = fit_linear_by_folds(problem_type, labels, features, rows, folds, metric="accuracy")

    def outputs(test: LabelledRows) -> Tensor:
        of_test = extract_features(classifier, test.encoded, "pooled").double().numpy()
        return torch.from_numpy(fitted.logits(of_test))

    return Trained(outputs, fitted.trainable_parameters)


def cross_entropy(classifier: Classifier, drawn: Rows, seed: int) -> Trained:
    """Value biases by cross-entropy, as the first version did: a fifth of the rows is dev and chooses the epoch."""
    numbers = np.arange(len(drawn))
    train, dev = train_test_split(
        numbers, test_size=max(0.2, len(classifier.labels) / len(drawn)), stratify=drawn.labels, random_state=seed
    )
    of_train, of_dev = (classifier.examples(drawn.select(part.tolist()), MAX_LENGTH) for part in (train, dev))
    sample = Sample(of_train, of_dev, "accuracy")
    return train_value(classifier, sample, settings_of_draw({"loss": "cross_entropy"}, seed))


def cross_entropy_of_all(classifier: Classifier, drawn: Rows, seed: int) -> Trained:
    """The same on all rows to the last epoch, as ``train.learn_from_dev: true`` has it; nothing is chosen."""
    sample = Sample(classifier.examples(drawn, MAX_LENGTH), None, "accuracy")
    return train_value(classifier, sample, settings_of_draw({"loss": "cross_entropy"}, seed))


def contrastive(classifier: Classifier, drawn: Rows, seed: int) -> Trained:
    """Value biases by the contrastive loss on all rows, then the head: the default with few rows; nothing is chosen."""
    sample = Sample(classifier.examples(drawn, MAX_LENGTH), None, "accuracy")
    return train_value(classifier, sample, settings_of_draw({"loss": "contrastive"}, seed))


def auto(classifier: Classifier, drawn: Rows, seed: int) -> Trained:
    """What ``train.method: auto`` chooses."""
    sample = Sample(classifier.examples(drawn, MAX_LENGTH), None, "accuracy")
    settings = settings_of_draw({"method": "auto"}, seed)
    losses: tuple[Loss, ...] = ("cross_entropy", "contrastive")
    by_loss = {loss: settings_of(settings.train.with_loss(loss), settings, _DATASET, len(drawn)) for loss in losses}
    result, _, choice = search_and_train(classifier, sample, settings, by_loss, "value", progress=lambda line: None)
    return _trained(classifier, result, choice.chosen.candidate.name)


METHODS: dict[str, Method] = {
    "logistic_regression": logistic_regression,
    "cross_entropy": cross_entropy,
    "cross_entropy_of_all": cross_entropy_of_all,
    "contrastive": contrastive,
    "auto": auto,
}
"""Every way, in the order of the table."""


def train_value(classifier: Classifier, sample: Sample, settings: Settings) -> Trained:
    """Value biases and the head, trained on a sample."""
    training = settings_of(settings.train, settings, _DATASET, len(sample.train))
    result = train_terms(classifier, sample, settings, training, ["value"], progress=lambda line: None)
    return _trained(classifier, result)


def _trained(classifier: Classifier, result: RunResult, chosen: str = "") -> Trained:
    def outputs(test: LabelledRows) -> Tensor:
        with Bank(classifier.model, result.deltas, result.head):
            return sequence_outputs(classifier, test.encoded)[0]

    moved = sum(delta.numel() for delta in result.deltas.values() if bool(delta.any()))
    return Trained(outputs, moved + result.head_parameters, chosen)
