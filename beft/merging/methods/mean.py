"""Merging by the weighted mean of the changes: the weights are divided by their sum.

With equal weights this is the arithmetic average of "BEFT: Bias-Efficient Fine-Tuning of Language Models", arXiv
2509.15974, table 3: adapters of one base differ from it by their changes only, so the mean of their biases is the
base's bias plus the mean of the changes.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from beft.merging.deltas import Weighted, shares, weighted_sum
from beft.merging.registry import merge_method


@merge_method("mean")
def mean(adapters: Sequence[Weighted]) -> dict[str, Tensor]:
    """The weighted mean of changes. One alone is itself, whatever its weight.

    Args:
        adapters: Changes and weights, none of them negative.

    Raises:
        InputError: There are none, they do not fit together, a weight is negative, or all weights are zero.
    """
    weights = shares([weight for _, weight in adapters], "mean")
    total = math.fsum(weights)
    return weighted_sum([(deltas, weight / total) for (deltas, _), weight in zip(adapters, weights, strict=True)])
