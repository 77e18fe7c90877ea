"""The result of an importance method: a table of terms by layers, its means, and the ranking of the terms."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from beft.errors import BeftError, InputError
from beft.settings import TERMS
from beft.sites.site import BiasSite

Vectors = Mapping[BiasSite, Tensor]


@dataclass(frozen=True)
class Importance:
    """How important each bias term is, layer by layer, by one method.

    Attributes:
        method: Name of the method that made the scores.
        scores: For each term its score in each of its layers, first layer first. None says "no direction": the method
            cannot score the term there (a bias that was zero before training has no direction to compare with).
        stacks: In a model with an encoder and a decoder, how many of the layers are the encoder's (the first ones) and
            how many the decoder's; empty for a model with one list of layers.
    """

    method: str
    scores: Mapping[str, Sequence[float | None]]
    stacks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for term, layers in self.scores.items():
            if not layers:
                raise InputError(f"{self.method}: the term {term!r} has no layers")
            if any(score is not None and not math.isfinite(score) for score in layers):
                raise InputError(f"{self.method}: a score of the term {term!r} is not a finite number: {list(layers)}")
        ordered = {term: tuple(self.scores[term]) for term in terms_in_order(self.scores)}
        object.__setattr__(self, "scores", ordered)

    @property
    def mean(self) -> dict[str, float | None]:
        """The score of each term averaged over the layers that have one; None where no layer has."""
        means: dict[str, float | None] = {}
        for term, layers in self.scores.items():
            known = [score for score in layers if score is not None]
            means[term] = math.fsum(known) / len(known) if known else None
        return means

    def ranking(self) -> list[str]:
        """The terms with the highest mean score first; those without a score are left out.

        Equal scores keep the order of the terms in the settings, so that the ranking is always the same.
        """
        means = {term: mean for term, mean in self.mean.items() if mean is not None}
        return sorted(means, key=lambda term: -means[term])

    def to_json(self) -> dict[str, Any]:
        """The table as JSON values, the means and the ranking beside it."""
        return {
            "method": self.method,
            "scores": {term: list(layers) for term, layers in self.scores.items()},
            "mean": self.mean,
            "ranking": self.ranking(),
            **({"stacks": dict(self.stacks)} if self.stacks else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Importance":
        """Read what ``to_json`` gave; means and ranking are computed anew."""
        return cls(value["method"], value["scores"], value.get("stacks", {}))


def numbers_of_layers(layers: int, stacks: Mapping[str, int]) -> tuple[int, ...]:
    """The numbers of layers from 1 on, begun anew in each stack; ``stacks`` may be empty."""
    return tuple(number + 1 for length in (stacks.values() or [layers]) for number in range(length))


def terms_in_order(terms: Iterable[str]) -> list[str]:
    """Terms in the order of the settings, unknown ones last and by name."""
    return sorted(terms, key=lambda term: (TERMS.index(term) if term in TERMS else len(TERMS), term))


def score_by_layer(method: str, score: Callable[..., float | None], *evidence: Vectors) -> Importance:
    """Apply a function of vectors to every term and layer.

    The sites of one term in one layer (there can be several) are one vector, in the order of the sites.

    Args:
        score: Gets one fp64 vector from each of ``evidence``.
        evidence: One or more mappings over the same sites, 1-d tensors of the same width for the same site.

    Raises:
        InputError: The mappings have different sites or shapes.
        BeftError: A value is not finite (the training that made it diverged).
    """
    first = evidence[0]
    if not first:
        raise InputError(f"{method}: there are no bias sites to score")
    for vectors in evidence:
        _check(method, first, vectors)
    cells: dict[str, dict[int, list[BiasSite]]] = {}
    for site in sorted(first):
        cells.setdefault(site.term, {}).setdefault(site.layer, []).append(site)
    scores = {}
    for term, layers in cells.items():
        scores[term] = [
            score(
                *(torch.cat([vectors[site].detach().double().cpu() for site in layers[layer]]) for vectors in evidence)
            )
            for layer in sorted(layers)
        ]
    layers_of: dict[str, set[int]] = {}
    for site in sorted(first, key=lambda site: site.layer):
        if site.stack:
            layers_of.setdefault(site.stack, set()).add(site.layer)
    return Importance(method, scores, {stack: len(layers) for stack, layers in layers_of.items()})


def _check(method: str, first: Vectors, vectors: Vectors) -> None:
    different = sorted(set(first) ^ set(vectors))
    if different:
        raise InputError(f"{method}: {different[0].name} and {len(different) - 1} more are in one mapping only")
    for site, vector in vectors.items():
        if vector.dim() != 1 or vector.shape != first[site].shape:
            raise InputError(
                f"{method}: {site.name} has shapes {tuple(first[site].shape)} and {tuple(vector.shape)}; "
                "both must be one and the same vector"
            )
        if not torch.isfinite(vector).all():
            raise BeftError(
                f"{method}: {site.name} holds values that are not finite numbers: the training that made them "
                "diverged; lower its learning rate"
            )
