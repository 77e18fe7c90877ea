"""What bias terms a base has: where, how wide, which could be added, and which can do nothing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from beft.encoding.tokenization import encode
from beft.errors import InputError
from beft.limits import usable_cores
from beft.models.base import load_parts
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.pooling import base_pooling
from beft.models.reference import BaseReference, resolve_base
from beft.sites.layout import Match, join
from beft.sites.matching import match_layout
from beft.sites.site import BiasSite, find_sites
from beft.tables import text_columns

log = logging.getLogger("beft.models.base")

_LABELS = ("first", "second")
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


@dataclass(frozen=True, repr=False)
class Inspection:
    """The bias terms of a base, in the order of the settings.

    Attributes:
        model: Class of the model.
        family: Name of the layout that it was recognised by.
        layers: Number of its layers.
        stacks: How many of them are the encoder's and the decoder's; empty for one list of layers.
        parameters: Number of all parameters of the base, with a head of two classes.
        pooling: The pooling that its own files ask for; None where they ask for one that beft does not know.
    """

    base: BaseReference
    model: str
    family: str
    layers: int
    stacks: Mapping[str, int]
    parameters: int
    pooling: str | None
    terms: tuple[TermFacts, ...]

    def __repr__(self) -> str:
        of_stacks = ", ".join(f"{length} {stack}" for stack, length in self.stacks.items())
        layers = f"{self.layers} layers" + (f" ({of_stacks})" if of_stacks else "")
        pooling = "" if self.pooling is None else f", pooling {self.pooling}"
        total = sum(term.parameters for term in self.terms if term.exists)
        return (
            f"{self.model} ({self.family}), {layers}, {self.parameters:,} parameters\n"
            f"{self.base.portable_id}, sha256 {self.base.sha256[:12]}{pooling}\n\n"
            f"{self._columns()}\n\n"
            f"All existing bias terms: {total:,} parameters, {total / self.parameters:.3%} of the model."
        )

    def _columns(self) -> str:
        measured = any(term.inert is not None for term in self.terms)
        rows = [
            (
                term.term,
                term.layers,
                term.width,
                f"{term.parameters:,}",
                "yes" if term.exists else "can be added",
                *([_share(term.inert, term.parameters)] if measured else []),
                term.module,
            )
            for term in self.terms
        ]
        heads = ["bias term", "sites", "width", "parameters", "exists", *(["inert"] if measured else []), "module"]
        return text_columns(heads, rows)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "base": {"id": self.base.portable_id, "sha256": self.base.sha256},
            "model": self.model,
            "family": self.family,
            "layers": self.layers,
            "stacks": dict(self.stacks),
            "parameters": self.parameters,
            "pooling": self.pooling,
            "terms": [asdict(term) for term in self.terms],
        }


def inspect_base(source: str, *, inertness: bool = False, seed: int = 0) -> Inspection:
    """Inspect a base, and check it as a run does. Its weights are read only to measure inertness.

    Args:
        source: As ``base.source`` of the settings.
        inertness: Whether to measure, by shifting each bias, which components change no logit.
        seed: Seed of the random shifts.

    Raises:
        InputError: The base cannot be reached, its files are no whole base, or its structure is unknown.
    """
    reference = resolve_base(source)
    compute = Compute("cpu", "fp32", torch.get_num_threads())
    model, tokenizer, newly_initialized = load_parts(reference.folder, len(_LABELS), compute, seed, weights=inertness)
    sites = find_sites(model, add=True)
    inert: dict[BiasSite, Tensor] | None = None
    if inertness:
        from beft.training.probe import inert_components

        # The own head of an encoder and decoder reads at an end token, which its tokenizer need not put behind a text.
        pooling = "mean" if model.config.is_encoder_decoder else "model"
        classifier = Classifier(model, tokenizer, reference, _LABELS, pooling, newly_initialized)
        classifier.threads = min(torch.get_num_threads(), usable_cores())
        inert = inert_components(classifier, sites, encode(tokenizer, _TEXTS, max_length=32), seed)
    match = match_layout(model)
    terms = dict.fromkeys(site.term for site in sites)
    return Inspection(
        base=reference,
        model=type(model).__name__,
        family=match.layout.name,
        layers=match.layers,
        stacks=match.lengths if len(match.lengths) > 1 else {},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        pooling=_pooling(reference),
        terms=tuple(_facts(match, [site for site in sites if site.term == term], inert) for term in terms),
    )


def _share(part: int | None, whole: int) -> str:
    """How many of the components are inert, in words."""
    return {0: "none", whole: "all"}.get(part or 0, f"{part:,} of {whole:,}")


def _pooling(reference: BaseReference) -> str | None:
    """A pooling that is not known is no fault of a base: a setting names another."""
    try:
        return base_pooling(reference.folder)
    except InputError as error:
        log.warning("%s", error)
        return None


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
