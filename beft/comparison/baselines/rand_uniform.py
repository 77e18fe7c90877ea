"""Rand uniform: a number of single weights, drawn uniformly over all of the base's parameters, and the head.

The baseline of BitFit (arXiv 2106.10199) and of BEFT (arXiv 2509.15974), there with 100,000 weights of bert-base: it
asks whether the biases matter, or only how many numbers are trained.
"""

from collections.abc import Sequence

import numpy as np
import torch

from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.training.engine.weight_method import WeightMethod, of_base, used_parameters, wide

_STREAM = b"rand uniform"
"""Keeps the draw apart from that of the data order, which has the same seed."""


class RandUniform(WeightMethod):
    """Some weights of the base, each as likely as any other; the others do not move.

    Args:
        weights: How many.

    Raises:
        InputError: Fewer than one.
    """

    name = "rand_uniform"
    learning_rate = 1e-3
    """A usual one, not tuned here."""

    def __init__(self, weights: int) -> None:
        if weights < 1:
            raise InputError(f"rand uniform: {weights} weights are to be trained; name 1 or more")
        self.weights = weights

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """Draw the weights, without replacement, among those of the base that the logits depend on.

        Raises:
            InputError: The base has not that many.
        """
        parameters = of_base(classifier, used_parameters(classifier, batch))
        parameters = {name: parameter for name, parameter in parameters.items() if name not in head}
        ends = np.cumsum([parameter.numel() for parameter in parameters.values()])
        if self.weights > ends[-1]:
            raise InputError(f"rand uniform: {self.weights:,} weights are to be trained, but the base has {ends[-1]:,}")
        generator = np.random.default_rng([seed, *_STREAM])
        drawn = np.sort(generator.choice(int(ends[-1]), self.weights, replace=False, shuffle=False))
        parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
        indices = {
            name: torch.from_numpy(part - (end - parameter.numel()))
            for (name, parameter), part, end in zip(parameters.items(), parts, ends, strict=True)
            if len(part)
        }
        values = {}
        for name, index in indices.items():
            flat = parameters[name].detach().flatten()
            values[name] = flat[index.to(flat.device)].to(wide(flat))
        return WeightsState(values, indices)
