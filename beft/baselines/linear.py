"""What both baselines are in the end: one linear layer on raw features, and how candidates are compared on dev."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from beft.errors import InputError
from beft.evaluation import Cost
from beft.metrics import score

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Features = NDArray[Any] | torch.Tensor


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A fitted linear layer on raw features.

    Attributes:
        weight: [labels, hidden], fp64.
        bias: [labels], fp64.
        trainable_parameters: How many numbers were fitted.
        seconds: Search included, making the features not.
        details: How it was chosen, as JSON: the chosen settings and every candidate's dev metric.
    """

    weight: Floats
    bias: Floats
    trainable_parameters: int
    seconds: float
    details: dict[str, Any]

    def logits(self, features: Features) -> Floats:
        """Logits [rows, labels] of features [rows, hidden].

        Raises:
            InputError: The features have another width.
        """
        values = feature_array(features)
        if values.shape[1] != self.weight.shape[1]:
            raise InputError(f"features of width {values.shape[1]} for a layer of width {self.weight.shape[1]}")
        return np.asarray(values @ self.weight.T + self.bias)

    def probabilities(self, features: Features) -> Floats:
        """The probability of every label [rows, labels] of features [rows, hidden]."""
        return np.asarray(softmax(self.logits(features), axis=1))

    def as_tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [labels, hidden] and bias [labels], fp32: where a head may start."""
        return torch.from_numpy(self.weight).float(), torch.from_numpy(self.bias).float()

    def cost(self) -> Cost:
        """What it cost; the head is stored in fp32."""
        return Cost(
            trainable_parameters=self.trainable_parameters,
            seconds=self.seconds,
            head_bytes=4 * (self.weight.size + self.bias.size),
        )

    def to_json(self) -> dict[str, Any]:
        """How it was chosen and what it cost, without the weights."""
        return {**self.details, "trainable_parameters": self.trainable_parameters, "seconds": self.seconds}


@dataclass(frozen=True, order=True)
class Quality:
    """How good a candidate is on dev; the greater one is chosen.

    Dev is small, so equal metrics are common: the lower cross-entropy decides between them, then the simpler candidate
    (larger ``simplicity``).
    """

    metric: float
    negative_loss: float
    simplicity: float

    @classmethod
    def of(cls, metric: str, logits: Floats, labels: Integers, simplicity: float) -> "Quality":
        """The quality of logits [rows, labels] by a metric's name."""
        value = score(metric, labels, logits.argmax(1), logits.shape[1])
        return cls(round(value, 12), -cross_entropy(logits, labels), simplicity)


def cross_entropy(logits: Floats, labels: Integers) -> float:
    """The mean cross-entropy of logits [rows, labels], in nats."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def feature_array(features: Features) -> Floats:
    """Features [rows, hidden] as fp64.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    if isinstance(features, torch.Tensor):
        features = features.detach().to("cpu", torch.float64).numpy()
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"features must be of shape [rows, hidden], not {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("some features are not finite")
    return values


def checked(features: Features, labels: Any, classes: int, what: str) -> tuple[Floats, Integers]:
    """Features [rows, hidden] and label indices [rows] that fit each other.

    Raises:
        InputError: No rows, different numbers of rows, or label indices outside the classes.
    """
    values, indices = feature_array(features), np.asarray(labels, dtype=np.int64)
    if indices.shape != (len(values),) or not len(values):
        raise InputError(f"{what}: labels of shape {indices.shape} for features of shape {values.shape}")
    if indices.min() < 0 or indices.max() >= classes:
        raise InputError(f"{what}: label indices must lie in 0 to {classes - 1}")
    return values, indices
