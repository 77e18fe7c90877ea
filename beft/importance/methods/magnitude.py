"""Importance by magnitude: the mean absolute change of a bias, (1 / width) ‖after - before‖₁.

Source: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models" (Zaken, Goldberg
and Ravfogel, 2022), which divides by the width, so that terms of different widths can stand side by side. The formula
in the text of arXiv 2509.15974 does not divide; among terms of one width both rank alike.
"""

from torch import Tensor

from beft.importance.registry import importance_method
from beft.importance.result import Importance, Vectors, score_by_layer


@importance_method("magnitude")
def magnitude(before: Vectors, after: Vectors) -> Importance:
    """Score every term and layer by its mean absolute change, in the unit of the bias.

    Args:
        before: The biases before the probe.
        after: The same biases after the probe.
    """
    return score_by_layer("magnitude", _score, before, after)


def _score(before: Tensor, after: Tensor) -> float:
    return float((after - before).abs().mean())
