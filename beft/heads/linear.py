"""What both baselines are in the end: one linear layer on raw features, and how candidates are compared on dev."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from beft.errors import InputError
from beft.evaluation.records import Cost
from beft.heads.feature_rows import FeatureRows, Features, Floats, feature_array
from beft.metrics.registry import rank_on_dev
from beft.problems.problem_type import ProblemType

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A fitted linear layer on raw features.

    Attributes:
        weight: [labels, hidden], fp64; [1, hidden] for values and for the scores of choices.
        bias: [labels], fp64; [1] likewise.
        trainable_parameters: How many numbers were fitted.
        seconds: Search included, making the features not.
        details: How it was chosen, as JSON: the chosen settings and every candidate's dev metric.
        problem_type: What its outputs mean, with thresholds that are best on rows that were held out from fits; None:
            there are dev rows to choose them on.
    """

    weight: Floats
    bias: Floats
    trainable_parameters: int
    seconds: float
    details: dict[str, Any]
    problem_type: ProblemType | None = None

    def logits(self, features: Features) -> Floats:
        """Logits [rows, labels] of features [rows, hidden]: the layer's outputs, in any shape.

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

    Dev is small, so equal metrics are common: the lower loss decides between them, then the simpler candidate
    (larger ``simplicity``). One whose outputs are NaN or infinite has a metric of minus infinity.
    """

    metric: float
    negative_loss: float
    simplicity: float

    @classmethod
    def on(cls, metric: str, outputs: Floats, rows: FeatureRows, simplicity: float) -> "Quality":
        """The quality of outputs [sequences, outputs] on rows, by a metric's name."""
        return cls(*rank_on_dev(round(rows.score(metric, outputs), 12), rows.loss(outputs)), simplicity)

    def facts(self, loss_name: str) -> dict[str, float | None]:
        """The metric and the loss on dev as JSON values; None where the outputs were NaN or infinite."""
        if not math.isfinite(self.metric):
            return {"dev": None, f"dev_{loss_name}": None}
        return {"dev": self.metric, f"dev_{loss_name}": -self.negative_loss}


def standardisation(features: Floats, scaling: str, *, intercept: bool = True) -> tuple[Floats, Floats]:
    """What is taken from each feature, and what it is divided by, [hidden] each: its mean and standard deviation.

    Features that do not vary count as varying by 1.

    Args:
        scaling: ``each``: every feature has its own deviation; ``one``: all have one, the mean of these.
        intercept: Whether there is a bias; without one nothing is taken from the features.
    """
    mean, deviation = features.mean(0), features.std(0)
    deviation = np.where(deviation > 1e-10 * (1 + np.abs(mean)), deviation, 1.0)
    deviation = np.full_like(deviation, deviation.mean()) if scaling == "one" else deviation
    return mean if intercept else np.zeros_like(mean), deviation


def best_fit_on_dev(
    setting: str,
    candidates: Iterable[tuple[float, float, Floats, Floats]],
    dev: FeatureRows,
    metric: str,
    *,
    by_loss: bool,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """The weight and the bias of the best of some linear layers on dev, and the details of the choice.

    Args:
        setting: What the layers differ in.
        candidates: Its value, the simplicity, the weight [outputs, hidden] and the bias [outputs] of each.
        by_loss: Whether the loss alone decides; else the metric comes first.
    """
    found = [
        (Quality.on(metric, dev.features @ weight.T + bias, dev, simplicity), value, weight, bias)
        for value, simplicity, weight, bias in candidates
    ]
    quality, value, weight, bias = max(found, key=lambda one: one[0].negative_loss if by_loss else one[0])

    tried = [{setting: value, **quality.facts(dev.loss_name)} for quality, value, _, _ in found]
    return weight, bias, {setting: value, "metric": metric, **quality.facts(dev.loss_name), "candidates": tried}


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
