"""Importance by projection ratio: how much of a bias the shorter of its two states leaves of the longer one.

For the bias of one layer before and after the probe, I = 1 - (before · after) / max(‖before‖², ‖after‖²). The score
sees length and angle at once: 0 when nothing moved, 1 - c when the bias is scaled by c in [0, 1] (or by 1 / c),
1 - cos a when it is turned by the angle a, hence over 1 beyond 90°, and 2 when it is reversed. It does not depend on
the unit of the bias, nor on which of the two states came first.

Source: "BEFT: Bias-Efficient Fine-Tuning of Language Models", arXiv 2509.15974, section 2.1, the formulas of one
layer. (The summed formula there drops the square of the norm; without it the score would depend on the unit and would
not be 0 for a bias that never moved.)
"""

import torch
from torch import Tensor

from beft.importance.registry import importance_method
from beft.importance.result import Importance, Vectors, score_by_layer


@importance_method("projection_ratio")
def projection_ratio(before: Vectors, after: Vectors) -> Importance:
    """Score every term and layer by projection ratio.

    A bias that was zero before and has moved (an added one, say) would get 1 whatever it learnt. It has no direction
    to be compared with, its score is None, and it never chooses.

    Args:
        before: The biases before the probe.
        after: The same biases after the probe.
    """
    return score_by_layer("projection_ratio", _score, before, after)


def projection_ratio_of(before: Tensor, after: Tensor) -> float:
    """The projection ratio of two vectors, between 0 and 2 and defined for all finite ones.

    Limits: two equal vectors score 0, two zeros too; one zero vector beside another that is none scores 1.
    """
    before, after = before.double(), after.double()
    scale = torch.maximum(before.abs().max(), after.abs().max())
    if scale == 0:
        return 0.0
    # Divided by the largest value first, so that no square overflows or vanishes.
    before, after = before / scale, after / scale
    short, long = (before, after) if after.dot(after) >= before.dot(before) else (after, before)
    # 1 - short·long / ‖long‖², written so that equal vectors give exactly 0.
    ratio = float(long.dot(long - short) / long.dot(long))
    return min(max(ratio, 0.0), 2.0)


def _score(before: Tensor, after: Tensor) -> float | None:
    if not before.any() and after.any():
        return None
    return projection_ratio_of(before, after)
