"""Bias sites: where in a model the bias vectors of each bias term are."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.names import known_name
from beft.settings import TERMS
from beft.sites.layout import Found, Match, submodule
from beft.sites.matching import is_projection, match_layout, width
from beft.sites.offloading import module_device, parameter_value

CAN_BE_ADDED = ("query", "key", "value", "attention_output", "intermediate", "output")
"""The terms of projections: where a projection has no bias, one can be added."""


@dataclass(frozen=True, order=True)
class BiasSite:
    """One bias vector of a term in one layer.

    Args:
        term: The bias term.
        layer: Number of the layer, in a decoder after those of the encoder; 0 for a term that the model has once
            (embedding_norm, final_norm).
        module: Path of the module within the model.
        parameter: Name of the module's parameter: "bias".
        start: First component, counted from 0.
        stop: One after the last component.
        added: Whether the model has no bias there, so that the vector starts at zero.
        block: Where the heads of a fused projection have their parts side by side: only the first ``block`` of every
            ``stride`` components from ``start`` on are the site's; 0 when all are.
        stride: Components from the beginning of one block to that of the next; 0 when all components are the site's.
        stack: ``encoder`` or ``decoder``, in a model that has both.
    """

    term: str
    layer: int
    module: str
    parameter: str
    start: int
    stop: int
    added: bool
    block: int = 0
    stride: int = 0
    stack: str = ""

    @property
    def width(self) -> int:
        """Number of components."""
        if not self.stride:
            return self.stop - self.start
        return ((self.stop - self.start - self.block) // self.stride + 1) * self.block

    @property
    def name(self) -> str:
        """A name that no other site of the model has, fit for a key of a safetensors file."""
        return f"{self.module}.{self.parameter}[{self.components}]"

    @property
    def components(self) -> str:
        """The components as text: ``START:STOP``, followed by ``:BLOCK/STRIDE`` (so many of so many) with gaps."""
        gaps = f":{self.block}/{self.stride}" if self.stride else ""
        return f"{self.start}:{self.stop}{gaps}"

    def take(self, vector: Tensor) -> Tensor:
        """The site's components, [..., width], of vectors over the whole module, [..., outputs]."""
        part = vector[..., self.start : self.stop]
        return part.unfold(-1, self.block, self.stride).flatten(-2) if self.stride else part

    def put(self, vector: Tensor, values: Tensor) -> None:
        """Write the site's components, [..., width], into vectors over the whole module, [..., outputs]."""
        part = vector[..., self.start : self.stop]
        if self.stride:
            part, values = part.unfold(-1, self.block, self.stride), values.unflatten(-1, (-1, self.block))
        part.copy_(values)

    def overlaps(self, other: Self) -> bool:
        """Whether a component belongs to this site and to another one of the same module."""
        end = max(self.stop, other.stop)
        return bool((self._mask(end) & other._mask(end)).any())

    def _mask(self, end: int) -> Tensor:
        mask = torch.zeros(end, dtype=torch.bool)
        self.put(mask, torch.ones(self.width, dtype=torch.bool))
        return mask

    def to_json(self) -> dict[str, Any]:
        """The site as a JSON object; what most sites do not have is left out."""
        value = asdict(self)
        return {name: value[name] for name in value if name not in _OPTIONAL or value[name]}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read a site from a JSON object.

        Raises:
            InputError: A field is missing, unknown, of the wrong type, or out of range.
        """
        types = {entry.name: entry.type for entry in fields(cls)}
        needed = [name for name in types if name not in _OPTIONAL]
        if not isinstance(value, Mapping) or not set(needed) <= set(value) <= set(types):
            raise InputError(
                f"a bias site needs exactly the fields {', '.join(needed)} (and may have {', '.join(_OPTIONAL)}); "
                f"got {value!r}"
            )
        wrong = [name for name in value if type(value[name]) is not types[name]]
        if wrong or value["layer"] < 0 or not 0 <= value["start"] < value["stop"]:
            raise InputError(f"not a bias site: {dict(value)!r}")
        known_name(value["term"], TERMS, "bias term")
        site = cls(**value)
        if not _has_whole_blocks(site) or site.stack not in ("", "encoder", "decoder"):
            raise InputError(f"not a bias site: {dict(value)!r}")
        return site


_OPTIONAL = ("block", "stride", "stack")


def _has_whole_blocks(site: BiasSite) -> bool:
    """Whether the components of a site with gaps are two whole blocks or more."""
    if not site.stride:
        return not site.block
    rest = site.stop - site.start - site.block
    return 0 < site.block < site.stride <= rest and rest % site.stride == 0


def find_sites(model: nn.Module, terms: Iterable[str] | None = None, *, add: bool = False) -> tuple[BiasSite, ...]:
    """Find the bias sites of a model, with or without a head on top, by its module structure.

    Args:
        model: The model; the sites' module paths are relative to it.
        terms: The bias terms wanted; None: every term that the model has.
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
    return site.take(value).to(wide, copy=True)


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
    places = match.find(term)
    sites = [site for found in places if (site := _site(model, term, found, added=False)) is not None]
    inside = [found for found in places if found.layer is not None]
    if sites and len(sites) < len(inside):
        have = ", ".join(dict.fromkeys(str(site.layer) for site in sites))
        raise InputError(
            f"only part of the layers of {type(model).__name__} have a bias at {term} "
            f"({inside[0].place.module}): {len(sites)} of {len(inside)} layers (layer {have})."
        )
    if sites or not add or term not in CAN_BE_ADDED:
        return sites
    return [site for found in places if (site := _site(model, term, found, added=True)) is not None]


def _site(model: nn.Module, term: str, found: Found, *, added: bool) -> BiasSite | None:
    module = submodule(model, found.module)
    if module is None:
        return None
    bias = getattr(module, "bias", None)
    if added:
        outputs = width(module)
    elif isinstance(bias, Tensor):
        outputs = bias.numel()
    else:
        return None
    start, stop, block, stride = _span(model, found, outputs)
    return BiasSite(term, found.layer or 0, found.module, "bias", start, stop, added, block, stride, found.stack)


def _span(model: nn.Module, found: Found, outputs: int) -> tuple[int, int, int, int]:
    """Start, stop, block and stride of a place's components."""
    place = found.place
    if place.head_width:
        parent = model.get_submodule(found.module.rpartition(".")[0])
        block = int(getattr(parent, place.head_width))
        stride = block * place.parts
        start = block * place.part
        stop = outputs - stride + start + block
        return (start, stop, block, stride) if outputs > stride else (start, stop, 0, 0)
    if place.query_from:
        query = model.get_submodule(f"{found.module.removesuffix(place.module)}{place.query_from}")
        assert isinstance(query, nn.Linear)
        shared = (outputs - query.in_features) // (place.parts - 1)
        start = query.in_features + (place.part - 1) * shared if place.part else 0
        return start, start + (shared if place.part else query.in_features), 0, 0
    step = outputs // place.parts
    return place.part * step, (place.part + 1) * step, 0, 0


def _nothing_there(
    model: nn.Module, match: Match, missing: list[str], found: Mapping[str, list[BiasSite]], add: bool
) -> str:
    kind = f"{type(model).__name__} ({match.layout.name}, {match.layers} layers)"
    has = f"Bias terms found: {', '.join(found) or 'none'}."
    can_add = [term for term in missing or CAN_BE_ADDED if term in CAN_BE_ADDED]
    hint = f" It can be added to {', '.join(can_add)} ({_HOW_TO_ADD})." if can_add and not add else ""
    what = f"no bias at {', '.join(missing)} in any layer" if missing else "no bias term in any layer"
    return f"{kind} has {what}. {has}{hint}"
