"""Importance by magnitude in the Euclidean norm: the root mean square change of a bias, ‖after - before‖₂ / √width.

Beside the mean absolute change (``magnitude``) it weighs a large change of few components more. Like there, the
division by the width lets terms of different widths stand side by side.

Source: arXiv 2509.15974, section 2.2, which names the Euclidean distance as the other form of Magnitude.
"""

from torch import Tensor

from beft.importance.registry import importance_method
from beft.importance.result import Importance, Vectors, score_by_layer


@importance_method("magnitude_l2")
def magnitude_l2(before: Vectors, after: Vectors) -> Importance:
    """Score every term and layer by its root mean square change, in the unit of the bias.

    Args:
        before: The biases before the probe.
        after: The same biases after the probe.
    """
    return score_by_layer("magnitude_l2", _score, before, after)


def _score(before: Tensor, after: Tensor) -> float:
    return float((after - before).square().mean().sqrt())
