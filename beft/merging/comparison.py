"""How alike the changes of adapters are, and how much they contradict each other, before anything is merged."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from beft.adapters.checks import check_one_base
from beft.errors import InputError
from beft.merging.merged import Mergeable
from beft.settings import TERMS
from beft.sites.site import BiasSite, read_bias

Changes = Mapping[BiasSite, Tensor]


@dataclass(frozen=True)
class Comparison:
    """Two adapters side by side. None stands where a number is not defined: a change of zero has no direction.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        cosine: Cosine of the angle between their changes over the union of the sites; 1 the same direction, 0 nothing
            in common, -1 opposite.
        sign_conflict: Share of the components that both change, in which they change them in opposite directions.
        both_change: Number of the components that both change.
        norms: Lengths (Euclidean) of the two changes.
        by_layer: For each term that both trained, the cosine in each layer.
        cosine_of_biases: Cosine of the trained biases themselves (original plus change) at the sites of both, as in
            arXiv 2509.15974, section 3.3; None when the original biases were not given.
    """

    first: str
    second: str
    cosine: float | None
    sign_conflict: float | None
    both_change: int
    norms: tuple[float, float]
    by_layer: Mapping[str, tuple[float | None, ...]]
    cosine_of_biases: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            **asdict(self),
            "norms": list(self.norms),
            "by_layer": {term: list(cosines) for term, cosines in self.by_layer.items()},
        }


def compare(
    first: Changes,
    second: Changes,
    *,
    names: tuple[str, str] = ("first", "second"),
    before: Changes | None = None,
) -> Comparison:
    """Compare the changes of two adapters of one base; which one is first does not matter to any number but the norms.

    Args:
        first: Changes of the one adapter.
        second: Changes of the other adapter.
        names: What they are called.
        before: The base's own biases, at least at the sites of both adapters.

    Raises:
        InputError: A site has different shapes, or ``before`` lacks one.
    """
    both = sorted(set(first) & set(second))
    for site in both:
        if first[site].shape != second[site].shape:
            raise InputError(
                f"the adapters have different shapes at {site.name}: "
                f"{tuple(first[site].shape)} and {tuple(second[site].shape)}"
            )
    one, other = _joined(first, both), _joined(second, both)
    alone = [_joined(changes, sorted(set(changes) - set(both))) for changes in (first, second)]
    # Where only one of them has a site, the other's change is zero.
    whole = (
        torch.cat([one, alone[0], torch.zeros_like(alone[1])]),
        torch.cat([other, torch.zeros_like(alone[0]), alone[1]]),
    )
    signs = one.sign() * other.sign()
    both_change = int(signs.abs().sum())
    layers: dict[str, list[float | None]] = {}
    for term in TERMS:
        for layer in sorted({site.layer for site in both if site.term == term}):
            here = [site for site in both if site.term == term and site.layer == layer]
            layers.setdefault(term, []).append(cosine(_joined(first, here), _joined(second, here)))
    of_biases = None
    if before is not None:
        if lacking := [site.name for site in both if site not in before]:
            raise InputError(f"the base's own biases lack {lacking[0]} and {len(lacking) - 1} more")
        base = _joined(before, both)
        of_biases = cosine(base + one, base + other)
    return Comparison(
        first=names[0],
        second=names[1],
        cosine=cosine(*whole),
        sign_conflict=int((signs < 0).sum()) / both_change if both_change else None,
        both_change=both_change,
        norms=(float(whole[0].norm()), float(whole[1].norm())),
        by_layer={term: tuple(cosines) for term, cosines in layers.items()},
        cosine_of_biases=of_biases,
    )


def compare_all(adapters: Mapping[str, Mergeable], *, before: Changes | None = None) -> list[Comparison]:
    """Compare every two adapters of one base, in the order of their names.

    Raises:
        InputError: Their bases differ, or as ``compare``.
    """
    check_one_base(adapters)
    return [
        compare(adapters[first].deltas, adapters[second].deltas, names=(first, second), before=before)
        for first, second in itertools.combinations(sorted(adapters), 2)
    ]


def biases_of(model: nn.Module, adapters: Mapping[str, Mergeable]) -> dict[BiasSite, Tensor]:
    """The base's own bias, [width], at every site of the adapters."""
    sites = {site for adapter in adapters.values() for site in adapter.deltas}
    return {site: read_bias(model, site) for site in sites}


def cosine(first: Tensor, second: Tensor) -> float | None:
    """The cosine of the angle between two vectors; None when one of them is zero."""
    if not first.any() or not second.any():
        return None
    first, second = first / first.abs().max(), second / second.abs().max()
    value = float(first.dot(second) / (first.norm() * second.norm()))
    return min(max(value, -1.0), 1.0)


def _joined(changes: Changes, sites: list[BiasSite]) -> Tensor:
    vectors = [changes[site].detach().cpu().double() for site in sites]
    return torch.cat(vectors) if vectors else torch.zeros(0, dtype=torch.float64)
