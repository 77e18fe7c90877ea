"""The matrix products of a base alone: what is left of a forward or backward pass when all else takes no time."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from beft.errors import InputError
from beft.models.classifier import Classifier
from beft.models.frozen_linear import FrozenLinear
from beft.models.machine import synchronize
from beft.process_state import with_own_threads
from beft.sites.matching import match_layout

_PRODUCTS = ("mm", "addmm")


def linear_layers(classifier: Classifier) -> list[nn.Linear | Conv1D]:
    """The linear layers of all layers of the base: embeddings and head are left out.

    Raises:
        InputError: The structure of the base is unknown, or some of its weights are on no device.
    """
    model = classifier.model
    modules = [one for path in match_layout(model).layer_paths() for one in model.get_submodule(path).modules()]
    found = [module for module in modules if isinstance(module, nn.Linear | Conv1D)]
    if any(module.weight.device.type == "meta" for module in found):
        raise InputError("parts of the base are not in memory, so its products cannot be timed: base.device_map: none")
    return found


@with_own_threads
@torch.no_grad()
def compute_products(classifier: Classifier, tokens: Sequence[int], *, backward: bool = False) -> None:
    """Compute the products of all linear layers with their real weights, one after another, and nothing else.

    Args:
        tokens: Of each batch, padding counted.
        backward: Also the products of a backward pass: of each output's gradient, down to the input.

    Raises:
        InputError: As ``linear_layers``.
    """
    layers = linear_layers(classifier)
    dtype = next(parameter.dtype for parameter in classifier.model.parameters() if parameter.is_floating_point())
    for count in tokens:
        inputs: dict[tuple[int, torch.device], Tensor] = {}

        def rows(width: int, device: torch.device, count: int = count, inputs: Any = inputs) -> Tensor:
            if (width, device) not in inputs:
                inputs[width, device] = torch.ones(count, width, dtype=dtype, device=device)
            return inputs[width, device]  # type: ignore[no-any-return]

        for layer in layers:
            weight = _weight(layer, dtype)
            functional.linear(rows(weight.shape[1], weight.device), weight)
            if backward:
                rows(weight.shape[0], weight.device) @ weight
    synchronize(classifier.device)


def product_operations(classifier: Classifier, tokens: Sequence[int], *, backward: bool = False) -> int:
    """The operations of ``compute_products``, two for each pair of numbers that are multiplied."""
    weights = 0
    for layer in linear_layers(classifier):
        weights += layer.in_features * layer.out_features if isinstance(layer, nn.Linear) else layer.weight.numel()
    return 2 * weights * sum(tokens) * (2 if backward else 1)


def counted_operations(work: Callable[[], Any]) -> int:
    """The operations of the products with weights that a work really computes, forward and backward.

    Those of attention, between tokens, are not counted: few, and not seen alike on every device.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    counted = counter.get_flop_counts().get("Global", {})
    return int(sum(count for operation, count in counted.items() if str(operation).split(".")[-1] in _PRODUCTS))


def median_seconds(work: Callable[[], Any], seconds: float) -> float:
    """The median time of a work that is repeated for so many seconds, once at least after one that does not count."""
    work()
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _weight(layer: nn.Linear | Conv1D, dtype: torch.dtype) -> Tensor:
    """A layer's weight, [outputs, inputs]."""
    if isinstance(layer, FrozenLinear):
        return layer.weight_as(dtype)
    weight: Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight
