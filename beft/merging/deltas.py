"""What every merge method works on: trained changes by the names of their sites, with a weight each."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from beft.errors import InputError

Deltas = Mapping[str, Tensor]
"""Name of a site -> the change that an adapter trained there, [width]."""

Weighted = tuple[Deltas, float]
"""The changes of one adapter, and its weight."""


def content_hash(deltas: Deltas) -> str:
    """The sha256 of changes: of their names, types and values, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(deltas):
        tensor = deltas[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def canonical_order(adapters: Sequence[Weighted]) -> list[Weighted]:
    """The adapters in an order of their contents, so that a sum over them never depends on the order given.

    Raises:
        InputError: There are none, a weight or a value is not a finite number, or a site has different shapes.
    """
    if not adapters:
        raise InputError("there is no adapter to merge")
    shapes: dict[str, torch.Size] = {}
    for deltas, weight in adapters:
        if not math.isfinite(weight):
            raise InputError(f"the weight of an adapter must be a finite number, not {weight}")
        for name, tensor in deltas.items():
            if tensor.shape != shapes.setdefault(name, tensor.shape) or tensor.dim() != 1:
                raise InputError(
                    f"the adapters have different shapes at {name}: {tuple(shapes[name])} and {tuple(tensor.shape)}"
                )
            if not torch.isfinite(tensor).all():
                raise InputError(f"an adapter holds values that are not finite numbers at {name}")
    return sorted(adapters, key=lambda adapter: (content_hash(adapter[0]), adapter[1]))


def weighted_sum(adapters: Sequence[Weighted]) -> dict[str, Tensor]:
    """The sum of weight times change over the union of the sites; where an adapter has no site it changes nothing.

    Summed in fp64 in an order of the contents, and returned in the widest type that the adapters have at any site, at
    least fp32, on the CPU.

    Raises:
        InputError: As ``canonical_order``, or the sum is too large for its type.
    """
    ordered = canonical_order(adapters)
    merged = {}
    for name in sorted({name for deltas, _ in ordered for name in deltas}):
        parts = [tensor.detach().cpu().double() * weight for tensor, weight in _at(name, ordered)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        merged[name] = in_widest_dtype(name, total, ordered)
    return merged


def in_widest_dtype(name: str, values: Tensor, adapters: Sequence[Weighted]) -> Tensor:
    """Values of the site ``name`` in the widest type that the adapters have at any site, at least fp32.

    Raises:
        InputError: A value is too large for the type.
    """
    dtype = torch.float32  # one type for all sites, as an adapter has
    for deltas, _ in adapters:
        for tensor in deltas.values():
            dtype = torch.promote_types(dtype, tensor.dtype)
    cast = values.to(dtype)
    if not torch.isfinite(cast).all():
        raise InputError(f"the merged change at {name} is too large for {dtype}: use smaller weights")
    return cast


def shares(weights: Sequence[float], method: str) -> list[float]:
    """The weights of a mean, divided by the largest, so that neither their size nor their sum can overflow.

    Raises:
        InputError: A weight is negative, or all of them are zero.
    """
    if any(weight < 0 for weight in weights):
        raise InputError(f"{method} has no negative weights, but these are {list(weights)}; use task_arithmetic")
    largest = max(weights, default=0.0)
    if weights and largest == 0:
        raise InputError(f"the weights of {method} must not all be zero")
    return [weight / largest for weight in weights]


def _at(name: str, adapters: Sequence[Weighted]) -> Iterator[tuple[Tensor, float]]:
    return ((deltas[name], weight) for deltas, weight in adapters if name in deltas)
