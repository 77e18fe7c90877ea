"""Merging by task arithmetic: the sum of the changes, each times its weight, all times one scale.

Source: "Editing Models with Task Arithmetic" (Ilharco et al., 2023), arXiv 2212.04089. A negative weight takes what an
adapter learnt away.
"""

from collections.abc import Sequence

from torch import Tensor

from beft.merging.deltas import Weighted, weighted_sum
from beft.merging.registry import merge_method


@merge_method("task_arithmetic")
def task_arithmetic(adapters: Sequence[Weighted], *, scale: float = 1.0) -> dict[str, Tensor]:
    """The scaled sum of changes.

    Args:
        adapters: Changes and weights.
        scale: Multiplies the sum; choose it on dev rows, never on test rows.

    Raises:
        InputError: There are none, they do not fit together, or a weight times the scale is not a finite number.
    """
    return weighted_sum([(deltas, scale * weight) for deltas, weight in adapters])
