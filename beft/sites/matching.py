"""Which family's layout a model has, by its module structure.

A layout names the layer list and, within a layer, the module of each bias term. It matches when the layer list is
there, each of its layers has every one of those modules, and no layer has a projection that the layout does not know
(an adapter, for example). Neither the model's type nor its class is looked at, so that every model built the same way
works, with or without a head on top.
"""

import sys
from collections.abc import Iterator

from torch import nn

from beft.errors import InputError
from beft.sites.families import LAYOUTS
from beft.sites.layout import Layout, Match, join, submodule


def match_layout(model: nn.Module) -> Match:
    """Find the one layout whose structure the model has.

    Raises:
        InputError: No layout matches, one matches in part of the layers only, it is one that cannot be taken, or more
            than one base model matches; the message lists what was found.
    """
    matches: list[Match] = []
    partial: list[str] = []
    for base, module in model.named_modules():
        for layout in LAYOUTS:
            lists = {name: submodule(module, stack.layers) for name, stack in layout.stacks.items()}
            if not all(isinstance(layers, nn.ModuleList) and len(layers) for layers in lists.values()):
                continue
            fitting = {
                name: [_fits(layout.stacks[name], layer) for layer in layers]  # type: ignore[union-attr]
                for name, layers in lists.items()
            }
            if all(all(fits) for fits in fitting.values()):
                modules = {key: path for stack in layout.stacks.values() for key, path in _instead(stack, module)}
                matches.append(Match(layout, base, {name: len(fits) for name, fits in fitting.items()}, modules))
            elif any(any(fits) for fits in fitting.values()):
                for name, fits in fitting.items():
                    path = join(base, layout.stacks[name].layers)
                    missing = [index for index, fit in enumerate(fits) if not fit]
                    if missing:
                        partial.append(f"{path} has the structure of {layout.name} except in layer {_listed(missing)}")
    kind = type(model).__name__
    if len(matches) == 1 and not partial:
        if matches[0].layout.refused:
            raise InputError(f"{kind} is built like {matches[0].layout.name}: {matches[0].layout.refused}.")
        return matches[0]
    known = ", ".join(layout.name for layout in LAYOUTS if not layout.refused)
    if partial:
        raise InputError(f"only part of the layers of {kind} have a known structure: {'; '.join(partial)}.")
    if matches:
        found = ", ".join(join(match.base, match.layout.layers) for match in matches)
        raise InputError(
            f"{kind} has more than one list of layers ({found}); models with one, or with one encoder and one decoder, "
            "are supported."
        )
    lists_there = ", ".join(_layer_lists(model)) or "none"
    raise InputError(
        f"the structure of {kind} is unknown, so its bias terms cannot be told apart. "
        f"Known structures: {known}. Lists of layers found: {lists_there}."
    )


def is_projection(module: nn.Module) -> bool:
    """Whether a module is a linear map: nn.Linear, GPT-2's Conv1D, or a class made from one of them."""
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether a module is a Conv1D; a model that has one has imported transformers, which takes half a second."""
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and isinstance(module, loaded.Conv1D)


def width(module: nn.Module) -> int:
    """The number of outputs of a projection."""
    if isinstance(module, nn.Linear):
        return module.out_features
    assert _is_conv1d(module)
    return int(module.nf)  # type: ignore[arg-type]


def _fits(layout: Layout, layer: nn.Module) -> bool:
    """Whether a layer has every module of the layout, and no projection besides."""
    places = (*layout.terms.values(), *layout.cross.values())
    if not all(_has(layer, place.module) or _has(layer, place.instead) for place in places):
        return False
    if not all(_has(layer, path) for path in layout.other):
        return False
    known = {path for place in places for path in (place.module, place.instead)}
    known |= {*layout.other, *layout.optional}
    return all(path in known for path, module in layer.named_modules() if is_projection(module))


def _instead(layout: Layout, base: nn.Module) -> Iterator[tuple[str, str]]:
    """The places whose other module the model has."""
    layers = submodule(base, layout.layers)
    assert isinstance(layers, nn.ModuleList)
    for place in (*layout.terms.values(), *layout.cross.values()):
        if not _has(layers[0], place.module):
            yield place.module, place.instead


def _has(module: nn.Module, path: str) -> bool:
    return bool(path) and submodule(module, path) is not None


def _layer_lists(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            yield f"{path} ({len(module)} of {type(module[0]).__name__})"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
