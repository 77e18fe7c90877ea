"""Examples as frozen features: what the cheap baselines are fitted on, for every problem type that has a head."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from beft.encoding.examples import LabelledRows, Predictions
from beft.errors import InputError
from beft.inference.predictions import score_rows
from beft.metrics.label_sets import scores_at_best
from beft.metrics.registry import score_predictions
from beft.metrics.truth import Truth
from beft.problems.problem_type import ProblemType

Floats = NDArray[np.float64]
Features = NDArray[Any] | Tensor


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """The features of every sequence, and the targets of the examples.

    Attributes:
        problem_type: What outputs of a linear layer on the features mean.
        features: fp64, [sequences, hidden].
        labels: [examples], int64 or fp64; of label sets [examples, labels], int64 of 1 and 0; of tags on words
            [examples, most words], as ``LabelledRows`` has them.
        sizes: How many sequences (or words, where they have tags) each example has.
        rows: The examples, where they are more than labels.
    """

    problem_type: ProblemType
    features: Floats
    labels: NDArray[Any]
    sizes: Tensor
    rows: LabelledRows | None = None

    @property
    def loss_name(self) -> str:
        """What the loss is: ``squared_error`` of values, else ``cross_entropy``."""
        return "squared_error" if self.labels.dtype == np.float64 else "cross_entropy"

    @cached_property
    def inputs(self) -> Tensor:
        """The features and a last column of ones, fp32, [sequences, hidden + 1]: a layer's bias is a weight then."""
        features = torch.from_numpy(self.features).to(torch.float32)
        return torch.cat([features, torch.ones(len(features), 1)], dim=1)

    @classmethod
    def of(cls, problem_type: ProblemType, features: Features, targets: Any, what: str) -> "FeatureRows":
        """Features and targets that fit each other.

        Args:
            features: [sequences, hidden].
            targets: ``LabelledRows``, or the targets of examples of one sequence each.
            what: How messages call the rows.

        Raises:
            InputError: No rows, different numbers of rows, or features that are not finite.
        """
        values = feature_array(features)
        rows = targets if isinstance(targets, LabelledRows) else None
        given = np.asarray(targets if rows is None else rows.labels)
        kind = np.float64 if np.issubdtype(given.dtype, np.floating) else np.int64
        labels = given.astype(kind)
        sizes = torch.ones(len(labels), dtype=torch.int64) if rows is None else rows.output_sizes
        if labels.ndim not in (1, 2) or not len(labels) or int(sizes.sum()) != len(values):
            raise InputError(f"{what}: labels of shape {labels.shape} for features of shape {values.shape}")
        return cls(problem_type, values, labels, sizes, rows)

    def predictions(self, outputs: Floats) -> Predictions:
        """What is predicted from outputs [sequences, outputs]."""
        tensor = torch.from_numpy(np.ascontiguousarray(outputs))
        if self.rows is not None:
            return self.problem_type.predictions_of(tensor, self.rows)
        return self.problem_type.predictions(tensor, self.sizes)

    def score(self, metric: str, outputs: Floats) -> float:
        """The metric of the predictions; of label sets, at the thresholds that are best on these rows."""
        predicted = self.predictions(outputs)
        if self.problem_type.has_thresholds:
            assert not isinstance(predicted, list)
            return score_predictions(metric, scores_at_best(predicted, self.labels), Truth(label_sets=self.labels))
        if self.rows is not None:
            return score_rows(metric, predicted, self.rows)
        values = self.labels.dtype == np.float64
        return score_predictions(metric, predicted, Truth(values=self.labels) if values else Truth(labels=self.labels))

    def loss(self, outputs: Floats) -> float:
        """The mean loss of the examples."""
        tensor = torch.from_numpy(np.ascontiguousarray(outputs))
        return self.problem_type.mean_loss(tensor, torch.from_numpy(self.labels), self.sizes)

    def sequences(self, examples: Tensor) -> Tensor:
        """The numbers of the sequences of some examples."""
        starts = self.sizes.cumsum(0) - self.sizes
        sizes = self.sizes[examples]
        within = torch.arange(int(sizes.sum())) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return starts[examples].repeat_interleave(sizes) + within

    def gradient(self, outputs: Tensor, examples: Tensor, weights: Tensor | None = None) -> Tensor:
        """The gradient of the examples' mean loss in outputs [candidates, their sequences, outputs], of each alone.

        Args:
            weights: The factor of each loss, [candidates, examples]; None: 1.
        """
        leaf = outputs.detach().requires_grad_(True)
        many = len(outputs)
        targets = torch.from_numpy(self.labels)[examples]
        targets = targets.repeat(many, *[1] * (targets.dim() - 1))
        with torch.enable_grad():
            losses = self.problem_type.losses(leaf.flatten(0, 1), targets, self.sizes[examples].repeat(many))
            losses = losses if weights is None else losses * weights.flatten().to(losses)
            units = float(self.problem_type.loss_units(self.labels[examples.numpy()]).sum())
            (found,) = torch.autograd.grad(losses.sum() / max(1.0, units), leaf)
        return found


def feature_array(features: Features) -> Floats:
    """Features [rows, hidden] as fp64.

    Raises:
        InputError: Another shape, or values that are not finite.
    """
    if isinstance(features, Tensor):
        features = features.detach().to("cpu", torch.float64).numpy()
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"features must be of shape [rows, hidden], not {values.shape}")
    if not np.isfinite(values).all():
        raise InputError("some features are not finite")
    return values
