"""Merging by DARE: drop each component at random, rescale the rest, then task arithmetic.

Source: "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch" (Yu et al., 2024),
arXiv 2311.03099. What an adapter loses follows from its contents, the name of the site and the number of the draw, so
that a merge is the same on every machine and in every order.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import Weighted, content_hash, weighted_sum
from beft.merging.registry import merge_method


@merge_method("dare")
def dare(
    adapters: Sequence[Weighted], *, drop_rate: float = 0.5, scale: float = 1.0, draw: int = 0
) -> dict[str, Tensor]:
    """The scaled sum of changes that were thinned out; over the draws, its mean is that of task arithmetic.

    Args:
        adapters: Changes and weights.
        drop_rate: Probability with which a component is dropped; what is left is divided by one minus it. 0 is task
            arithmetic.
        scale: Multiplies the sum; choose it on dev rows, never on test rows.
        draw: Number of the random draw.

    Raises:
        InputError: There are none, they do not fit together, the drop rate is not at least 0 and below 1, or the sum is
            too large for its type.
    """
    if not 0 <= drop_rate < 1:
        raise InputError(f"the drop rate of dare must be at least 0 and below 1, not {drop_rate}")
    thinned = []
    for deltas, weight in adapters:
        key = content_hash(deltas)
        kept = {
            name: tensor.detach().cpu() * _mask(key, name, draw, len(tensor), drop_rate)
            for name, tensor in deltas.items()
        }
        thinned.append((kept, scale * weight / (1 - drop_rate)))
    return weighted_sum(thinned)


def _mask(key: str, name: str, draw: int, width: int, drop_rate: float) -> Tensor:
    """Which components are kept, [width]."""
    seed = int.from_bytes(hashlib.sha256(f"{key}\0{name}\0{draw}".encode()).digest())
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.random(width) >= drop_rate)
