"""Activation checkpointing: a layer's activations are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from beft.families import join, match_layout


@contextmanager
def recomputed_layers(model: nn.Module, *, on: bool = True) -> Iterator[None]:
    """Within the context, each layer of the model keeps its inputs alone; results and dropout's masks are the same.

    This is done around the layers rather than by the model's own switch, which works only while it trains with dropout.

    Args:
        on: Nothing happens when it is off.
    """
    if not on:
        yield
        return
    match = match_layout(model)
    layers = [model.get_submodule(join(match.base, match.layout.layers, str(index))) for index in range(match.layers)]
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    if cached is not None:
        config.use_cache = False  # type: ignore[union-attr]  # a cache would be filled twice
    before = [layer.__dict__.get("forward") for layer in layers]  # accelerate's hook, where there is one
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.__dict__["forward"]
            if forward is not None:
                layer.forward = forward
        if cached is not None:
            config.use_cache = cached  # type: ignore[union-attr]
