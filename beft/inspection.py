"""What bias terms a base has: where, how wide, which could be added, and which can do nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from beft.base import BaseReference, load_classifier, resolve_base
from beft.device import Compute
from beft.encoding import encode
from beft.errors import InputError
from beft.gguf import gguf_options
from beft.layout import Match, join
from beft.sites import BiasSite, find_sites
from beft.structure import match_layout

_TEXTS = ("A short sentence to look at.", "Another one, which is somewhat longer than the first.", "A third, at last.")


@dataclass(frozen=True)
class TermFacts:
    """One bias term of a base.

    Attributes:
        layers: Number of its sites: one a layer, or two where a decoder's layer has two attentions.
        width: Components of one site (of the first, where an encoder and a decoder differ).
        parameters: Components of all of its sites.
        module: Path of its module, ``*`` for the layer's number, with the slice of a fused projection; several are
            separated by commas.
        exists: Whether the base has this bias; if not, it can be added, starting at zero.
        inert: How many of its components change no logit; None when it was not measured.
    """

    term: str
    layers: int
    width: int
    parameters: int
    module: str
    exists: bool
    inert: int | None = None


@dataclass(frozen=True)
class Inspection:
    """The bias terms of a base, in the order of the settings.

    Attributes:
        model: Class of the model.
        family: Name of the layout that it was recognised by.
        layers: Number of its layers.
        stacks: How many of them are the encoder's and the decoder's; empty for one list of layers.
        parameters: Number of all parameters of the base, with a head of two classes.
    """

    base: BaseReference
    model: str
    family: str
    layers: int
    stacks: Mapping[str, int]
    parameters: int
    terms: tuple[TermFacts, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "base": {"id": self.base.portable_id, "sha256": self.base.sha256},
            "model": self.model,
            "family": self.family,
            "layers": self.layers,
            "stacks": dict(self.stacks),
            "parameters": self.parameters,
            "terms": [asdict(term) for term in self.terms],
        }


def inspect_base(source: str, *, inertness: bool = False, seed: int = 0) -> Inspection:
    """Inspect a base. Its weights are loaded only to measure inertness.

    Args:
        source: As ``base.source`` of the settings.
        inertness: Whether to measure, by shifting each bias, which components change no logit.
        seed: Seed of the random shifts.

    Raises:
        InputError: The base cannot be reached, or its structure is unknown.
    """
    reference = resolve_base(source)
    inert: dict[BiasSite, Tensor] | None = None
    if inertness:
        from beft.adaptation import inert_components

        compute = Compute("cpu", "fp32", torch.get_num_threads())
        classifier = load_classifier(reference, ("first", "second"), compute=compute, pooling="model", seed=seed)
        model = classifier.model
        sites = find_sites(model, add=True)
        inert = inert_components(classifier, sites, encode(classifier.tokenizer, _TEXTS, max_length=32), seed)
    else:
        model = _outline(reference)
        sites = find_sites(model, add=True)
    match = match_layout(model)
    terms = dict.fromkeys(site.term for site in sites)
    return Inspection(
        base=reference,
        model=type(model).__name__,
        family=match.layout.name,
        layers=match.layers,
        stacks=match.lengths if len(match.lengths) > 1 else {},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        terms=tuple(_facts(match, [site for site in sites if site.term == term], inert) for term in terms),
    )


def _outline(reference: BaseReference) -> Any:
    """The model's modules without their weights."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config = AutoConfig.from_pretrained(
            reference.folder,
            num_labels=2,
            local_files_only=True,
            trust_remote_code=False,
            **gguf_options(reference.folder),
        )
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the base {reference.source!r} is no model for classification: {first_line}") from None


def _facts(match: Match, sites: Sequence[BiasSite], inert: dict[BiasSite, Tensor] | None) -> TermFacts:
    first = sites[0]
    places = {found.module: found.place for found in match.find(first.term)}
    modules = dict.fromkeys(
        _any_layer(match, site.module) + (f"[{site.components}]" if places[site.module].parts > 1 else "")
        for site in sites
    )
    return TermFacts(
        term=first.term,
        layers=len(sites),
        width=first.width,
        parameters=sum(site.width for site in sites),
        module=", ".join(modules),
        exists=not first.added,
        inert=None if inert is None else sum(int(inert[site].sum()) for site in sites),
    )


def _any_layer(match: Match, module: str) -> str:
    """A module's path with ``*`` for the number of its layer, where there is more than one."""
    for stack, length in zip(match.layout.stacks.values(), match.lengths.values(), strict=True):
        layers = join(match.base, stack.layers)
        if length > 1 and module.startswith(f"{layers}."):
            return ".".join([layers, "*", *module.removeprefix(f"{layers}.").split(".")[1:]])
    return module
