"""Bias sites: where in a model the bias vectors of each bias term are."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.families import Match, Place, is_projection, match_layout, submodule, width
from beft.names import known_name
from beft.placement import module_device, parameter_value
from beft.settings import TERMS

CAN_BE_ADDED = ("query", "key", "value", "attention_output", "intermediate", "output")
"""The terms of projections: where a projection has no bias, one can be added."""


@dataclass(frozen=True, order=True)
class BiasSite:
    """One bias vector of a term in one layer.

    Args:
        term: The bias term.
        layer: Index of the layer; 0 for a term that the model has once (embedding_norm, final_norm).
        module: Path of the module within the model.
        parameter: Name of the module's parameter: "bias".
        start: First component, counted from 0.
        stop: One after the last component.
        added: Whether the model has no bias there, so that the vector starts at zero.
    """

    term: str
    layer: int
    module: str
    parameter: str
    start: int
    stop: int
    added: bool

    @property
    def width(self) -> int:
        """Number of components."""
        return self.stop - self.start

    @property
    def name(self) -> str:
        """A name that no other site of the model has, fit for a key of a safetensors file."""
        return f"{self.module}.{self.parameter}[{self.start}:{self.stop}]"

    def to_json(self) -> dict[str, Any]:
        """The site as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a site from a JSON object.

        Raises:
            InputError: A field is missing, unknown, of the wrong type, or out of range.
        """
        types = {entry.name: entry.type for entry in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != set(types):
            raise InputError(f"a bias site needs exactly the fields {', '.join(types)}; got {value!r}")
        wrong = [name for name, kind in types.items() if type(value[name]) is not kind]
        if wrong or value["layer"] < 0 or not 0 <= value["start"] < value["stop"]:
            raise InputError(f"not a bias site: {dict(value)!r}")
        known_name(value["term"], TERMS, "bias term")
        return cls(**value)


def find_sites(model: nn.Module, terms: Iterable[str] | None = None, *, add: bool = False) -> tuple[BiasSite, ...]:
    """Find the bias sites of a model, with or without a head on top, by its module structure.

    Args:
        model: The model; the sites' module paths are relative to it.
        terms: The bias terms wanted; none: every term that the model has.
        add: Whether a projection without a bias counts as a site whose bias is added, starting at zero.

    Returns:
        The sites in the order of ``beft.settings.TERMS``, then of the layers.

    Raises:
        InputError: The model's structure is unknown, a wanted term is unknown or not there, or only part of the
            layers have it; the message lists what was found.
    """
    wanted = None if terms is None else {known_name(term, TERMS, "bias term") for term in terms}
    if wanted is not None and not wanted:
        raise InputError(f"no bias term was asked for. Known: {', '.join(TERMS)}.")
    match = match_layout(model)
    found = {term: sites for term in TERMS if (sites := _term_sites(model, match, term, add))}
    if wanted is None:
        wanted = set(found)
    missing = [term for term in TERMS if term in wanted and term not in found]
    if missing or not found:
        raise InputError(_nothing_there(model, match, missing, found, add))
    return tuple(site for term, sites in found.items() if term in wanted for site in sites)


def read_bias(model: nn.Module, site: BiasSite) -> Tensor:
    """A copy of the site's bias vector, [width], in fp32 or wider; zeros for an added site."""
    module = site_module(model, site)
    bias = module.bias
    if bias is None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        wide = torch.promote_types(weight.dtype, torch.float32)
        return torch.zeros(site.width, dtype=wide, device=module_device(module))
    value = parameter_value(module, site.parameter)
    wide = torch.promote_types(value.dtype, torch.float32)
    return value[site.start : site.stop].to(wide, copy=True)


def site_module(model: nn.Module, site: BiasSite) -> nn.Module:
    """The module that holds a site.

    Raises:
        InputError: The model has no such module, or its bias is not as the site says.
    """
    module = submodule(model, site.module)
    if module is None:
        raise InputError(f"{type(model).__name__} has no module {site.module!r}: the site belongs to another model.")
    bias = getattr(module, site.parameter, None)
    if site.added and bias is not None:
        raise InputError(f"site {site.name}: the bias is to be added, but {type(module).__name__} has one.")
    if not site.added and not isinstance(bias, Tensor):
        raise InputError(f"site {site.name}: {type(module).__name__} has no bias; it can be added ({_HOW_TO_ADD}).")
    outputs = bias.numel() if isinstance(bias, Tensor) else width(module) if is_projection(module) else 0
    if site.stop > outputs:
        raise InputError(f"site {site.name}: {type(module).__name__} has {outputs} components only.")
    return module


_HOW_TO_ADD = "base.add_biases: true"


def _term_sites(model: nn.Module, match: Match, term: str, add: bool) -> list[BiasSite]:
    """The sites of one term; an empty list where no layer has them."""
    if term in match.layout.terms:
        place = match.layout.terms[term]
        layers: list[int | None] = list(range(match.layers))
    elif term in match.layout.outside:
        place, layers = match.layout.outside[term], [None]
    else:
        return []
    existing = [_site(model, match, term, place, layer, added=False) for layer in layers]
    sites = [site for site in existing if site is not None]
    if sites and len(sites) < len(layers):
        have = ", ".join(str(site.layer) for site in sites)
        raise InputError(
            f"only part of the layers of {type(model).__name__} have a bias at {term} "
            f"({place.module}): {len(sites)} of {len(layers)} layers (layer {have})."
        )
    if sites or not add or term not in CAN_BE_ADDED:
        return sites
    added = [_site(model, match, term, place, layer, added=True) for layer in layers]
    return [site for site in added if site is not None]


def _site(
    model: nn.Module, match: Match, term: str, place: Place, layer: int | None, *, added: bool
) -> BiasSite | None:
    path = match.module(place, layer)
    module = submodule(model, path)
    if module is None:
        return None
    bias = getattr(module, "bias", None)
    if added:
        outputs = width(module)
    elif isinstance(bias, Tensor):
        outputs = bias.numel()
    else:
        return None
    step = outputs // place.parts
    start = place.part * step
    return BiasSite(term, layer or 0, path, "bias", start, start + step, added)


def _nothing_there(
    model: nn.Module, match: Match, missing: list[str], found: Mapping[str, list[BiasSite]], add: bool
) -> str:
    kind = f"{type(model).__name__} ({match.layout.name}, {match.layers} layers)"
    has = f"Bias terms found: {', '.join(found) or 'none'}."
    can_add = [term for term in missing or CAN_BE_ADDED if term in CAN_BE_ADDED]
    hint = f" It can be added to {', '.join(can_add)} ({_HOW_TO_ADD})." if can_add and not add else ""
    what = f"no bias at {', '.join(missing)} in any layer" if missing else "no bias term in any layer"
    return f"{kind} has {what}. {has}{hint}"
