"""What a layout says of a model's structure, and where the bias terms of a model are that has it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class TermLocation:
    """Where a bias term is: the module that holds it, and which part of its output is the term's.

    Args:
        module: Path of the module, relative to its layer (or to the base model, for terms outside of the layers).
        part: Index of the part, counted from 0, where several projections are fused into one module.
        parts: Number of parts that the module's output has; equal ones, one after the other, if nothing else is said.
        instead: Path of the module that some models of the family have in the place of ``module``.
        head_width: Where each head has its own parts side by side: the attribute of the module's parent that holds
            the width of a head's part.
        query_from: Where the first part is wider than the others: the module whose input is as wide as it.
    """

    module: str
    part: int = 0
    parts: int = 1
    instead: str = ""
    head_width: str = ""
    query_from: str = ""


@dataclass(frozen=True)
class Layout:
    """The structure of a family, or of the decoder of one.

    Args:
        name: The family's name, for messages.
        layers: Path of the layer list, relative to the base model.
        terms: The place of each bias term, relative to the layer.
        outside: The place of each bias term that the model has once, relative to the base model; a model may lack it.
        cross: The places of a layer's second attention, relative to the layer.
        other: Projections of a layer that hold no bias term of ours, relative to the layer.
        optional: The same, for those that a model of the family may lack.
        post_norm: Whether a layer's attention norm stands behind its attention, so that from there on each token is
            computed by itself.
        decoder: The decoder, in a model that also has an encoder.
        refused: Why a model of this structure cannot be taken, where it cannot.
    """

    name: str
    layers: str
    terms: Mapping[str, TermLocation]
    outside: Mapping[str, TermLocation] = field(default_factory=dict)
    cross: Mapping[str, TermLocation] = field(default_factory=dict)
    other: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    post_norm: bool = False
    decoder: "Layout | None" = None
    refused: str = ""

    @property
    def stacks(self) -> "dict[str, Layout]":
        """The layouts of the layer lists by the names of these; a single list has no name."""
        return {"": self} if self.decoder is None else {"encoder": self, "decoder": self.decoder}


@dataclass(frozen=True)
class Found:
    """Where a bias term is in a model.

    Attributes:
        place: As the layout says it.
        module: Path of the module within the model.
        layer: Number of the layer; None outside of the layers.
        stack: ``encoder`` or ``decoder`` in a model that has both, else "".
    """

    place: TermLocation
    module: str
    layer: int | None
    stack: str


@dataclass(frozen=True)
class Match:
    """A layout found in a model.

    Attributes:
        layout: The layout.
        base: Path of the base model in the model ("" when it is the model itself).
        lengths: The number of layers of each layer list, by the list's name.
        modules: Which of two possible modules the model has, by the path that the layout prefers.
    """

    layout: Layout
    base: str
    lengths: Mapping[str, int]
    modules: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """The number of layers, of all lists."""
        return sum(self.lengths.values())

    def layer_paths(self) -> list[str]:
        """The path of each layer in the model; the index is the layer's number."""
        return [
            join(self.base, stack.layers, str(index))
            for name, stack in self.layout.stacks.items()
            for index in range(self.lengths[name])
        ]

    @property
    def terms(self) -> dict[str, None]:
        """The bias terms that the layout knows within the layers."""
        return dict.fromkeys(term for stack in self.layout.stacks.values() for term in stack.terms)

    def find(self, term: str) -> list[Found]:
        """Every place of a bias term, in the order of the layers."""
        found, before = [], 0
        for name, stack in self.layout.stacks.items():
            for index in range(self.lengths[name]):
                for place in (stack.terms.get(term), stack.cross.get(term)):
                    if place is not None:
                        path = join(self.base, stack.layers, str(index), self.modules.get(place.module, place.module))
                        found.append(Found(place, path, before + index, name))
            if term in stack.outside:
                place = stack.outside[term]
                found.append(Found(place, join(self.base, place.module), None, ""))
            before += self.lengths[name]
        return found


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or none."""
    found: nn.Module | None = module
    for part in path.split("."):
        found = found._modules.get(part) if found is not None else None
    return found


def join(*parts: str) -> str:
    """Dotted path of the parts that are not empty."""
    return ".".join(part for part in parts if part)
