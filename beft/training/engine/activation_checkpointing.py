"""Activation checkpointing: a layer's activations are computed again in the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from beft.sites.matching import match_layout


@contextmanager
def activation_checkpointing(model: nn.Module, *, on: bool = True) -> Iterator[None]:
    """Within the context, each layer of the model keeps its inputs alone; results and dropout's masks are the same.

    This is done around the layers rather than by the model's own switch, which works only while it trains with dropout.

    Args:
        on: Nothing happens when it is off.
    """
    if not on:
        yield
        return
    layers = [model.get_submodule(path) for path in match_layout(model).layer_paths()]
    # An encoder and a decoder may each have a configuration of their own.
    configs = [config for module in model.modules() if (config := getattr(module, "config", None)) is not None]
    cached = [(config, config.use_cache) for config in configs if getattr(config, "use_cache", None) is not None]
    for config, _ in cached:
        config.use_cache = False  # a cache would be filled twice
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
        for config, own in cached:
            config.use_cache = own
