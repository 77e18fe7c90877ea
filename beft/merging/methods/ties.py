"""Merging by TIES: trim each change, elect a sign for each component, average what agrees with it.

Source: "TIES-Merging: Resolving Interference When Merging Models" (Yadav et al., 2023), arXiv 2306.01708, algorithm 1.
Weights are not in the paper: here they multiply the changes in the election and make the disjoint mean a weighted one,
so that equal weights give the paper's method. Where the trimmed changes of a component cancel to zero no sign is
elected and nothing is changed, so that opposite changes give the opposite merge.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import Deltas, Weighted, canonical_order, in_widest_dtype, shares
from beft.merging.registry import merge_method


@merge_method("ties")
def ties(adapters: Sequence[Weighted], *, density: float = 0.2, scale: float = 1.0) -> dict[str, Tensor]:
    """Trim, elect signs, disjoint mean. One alone with density 1 is itself, whatever its weight.

    Args:
        adapters: Changes and weights, none of them negative.
        density: Share of each adapter's components, over all of its sites, that is kept: those of largest magnitude.
        scale: Multiplies the mean; the paper's lambda. Choose it on dev rows, never on test rows.

    Raises:
        InputError: There are none, they do not fit together, a weight is negative, all weights are zero, the density is
            not above 0 and at most 1, or the result is too large for its type.
    """
    if not 0 < density <= 1:
        raise InputError(f"the density of ties must be above 0 and at most 1, not {density}")
    ordered = canonical_order(adapters)
    weights = torch.tensor(shares([weight for _, weight in ordered], "ties"), dtype=torch.float64).unsqueeze(1)
    trimmed = [trim(deltas, density) for deltas, _ in ordered]
    merged = {}
    for name in sorted({name for deltas, _ in ordered for name in deltas}):
        width = next(deltas[name].numel() for deltas, _ in ordered if name in deltas)
        nothing = torch.zeros(width, dtype=torch.float64)
        changes = torch.stack([deltas.get(name, nothing) for deltas in trimmed]) * weights
        elected = changes.sum(0).sign()
        agrees = (changes.sign() == elected) & (elected != 0)
        mass = (weights * agrees).sum(0)
        mean = torch.where(mass > 0, (changes * agrees).sum(0) / mass.where(mass > 0, 1.0), 0.0)
        merged[name] = in_widest_dtype(name, scale * mean, ordered)
    return merged


def trim(deltas: Deltas, density: float) -> dict[str, Tensor]:
    """The changes in fp64, with the smallest of all components set to zero; of equally large ones the first are kept.

    At least one component is kept.
    """
    names = sorted(deltas)
    values = torch.cat([deltas[name].detach().cpu().double() for name in names])
    kept = max(1, round(density * len(values)))
    order = values.abs().argsort(descending=True, stable=True)
    values[order[kept:]] = 0.0
    return dict(zip(names, values.split([deltas[name].numel() for name in names]), strict=True))
