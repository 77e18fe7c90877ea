"""Merge the bias changes of adapters of one base. Heads are never merged: each dataset keeps its own."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from beft.adapters.checks import OverBase, check_one_base
from beft.errors import InputError
from beft.merging.deltas import content_hash
from beft.merging.registry import merge_deltas, options
from beft.names import unknown_name
from beft.settings import TERMS
from beft.sites.site import BiasSite


class Mergeable(OverBase, Protocol):
    """What merging needs of an adapter."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The bias terms that were trained."""

    @property
    def deltas(self) -> Mapping[BiasSite, Tensor]:
        """Trained minus original bias, [width] a site."""


class MergeWarning(UserWarning):
    """A merge was made, but perhaps not the one that was meant."""


@dataclass(frozen=True)
class Merged:
    """Merged changes, and how they were made.

    Attributes:
        method: The merge method.
        options: All of its options.
        weights: The weight of each adapter, by its name.
        sources: The hash of each adapter's changes, by its name.
        deltas: The merged changes, fp32 or wider, on the CPU.
        terms: The bias terms of all adapters.
        notes: What the user should know, a sentence each; also given as warnings.
    """

    method: str
    options: Mapping[str, Any]
    weights: Mapping[str, float]
    sources: Mapping[str, str]
    deltas: Mapping[BiasSite, Tensor]
    terms: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def recipe(self) -> dict[str, Any]:
        """How the merge was made, as JSON values, for the merged adapter's provenance."""
        return {
            "method": self.method,
            "options": dict(self.options),
            "weights": dict(self.weights),
            "sources": dict(self.sources),
            "terms": list(self.terms),
            "notes": list(self.notes),
        }


def merge(
    method: str, adapters: Mapping[str, Mergeable], *, weights: Mapping[str, float] | None = None, **given: Any
) -> Merged:
    """Merge the bias changes of adapters; their order and their names do not matter.

    Adapters of different terms are merged over the union of their sites, with a warning: a site that an adapter lacks
    counts as unchanged by it.

    Args:
        method: A merge method.
        adapters: Adapters of one base, by names of the caller's.
        weights: The weight of each adapter; None: 1 each.
        given: Options of the method.

    Raises:
        InputError: There are no adapters, their bases differ or were quantised differently, a weight names none of
            them or one has no weight, or the method or an option is unknown.
    """
    check_one_base(adapters)
    weights = dict.fromkeys(adapters, 1.0) if weights is None else dict(weights)
    for name in weights:
        if name not in adapters:
            raise InputError(unknown_name(name, adapters, "adapter among the weights"))
    if lacking := [name for name in adapters if name not in weights]:
        raise InputError(f"no weight for {', '.join(lacking)}")
    sites: dict[str, BiasSite] = {}
    named = {}
    for name, adapter in adapters.items():
        for site in adapter.deltas:
            if sites.setdefault(site.name, site) != site:
                raise InputError(f"the adapters disagree about {site.name}: {sites[site.name]} and {site}")
        named[name] = {site.name: delta for site, delta in adapter.deltas.items()}
    all_options = {**options(method), **given}
    merged = merge_deltas(method, [(named[name], float(weights[name])) for name in adapters], **given)
    notes = _notes(adapters)
    for note in notes:
        warnings.warn(note, MergeWarning, stacklevel=2)
    return Merged(
        method=method,
        options=all_options,
        weights=weights,
        sources={name: content_hash(deltas) for name, deltas in named.items()},
        deltas={sites[name]: tensor for name, tensor in sorted(merged.items(), key=lambda item: sites[item[0]])},
        terms=_in_order({term for adapter in adapters.values() for term in adapter.terms}),
        notes=notes,
    )


def _notes(adapters: Mapping[str, Mergeable]) -> tuple[str, ...]:
    if len({frozenset(adapter.deltas) for adapter in adapters.values()}) == 1:
        return ()
    trained = "; ".join(f"{name}: {', '.join(_in_order(set(a.terms)))}" for name, a in adapters.items())
    return (
        f"the adapters were trained at different bias sites ({trained}): merged over the union of them, a site that "
        "an adapter lacks counts as unchanged by it",
    )


def _in_order(terms: set[str]) -> tuple[str, ...]:
    return tuple(term for term in TERMS if term in terms)
