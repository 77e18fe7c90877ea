"""Supervised contrastive learning in a batch: rows with like targets get like features.

Khosla et al., "Supervised contrastive learning" (2020), equation 2; with weights of pairs in place of equal labels as
in Dufumier et al., "Contrastive learning with continuous proxy meta-data" (2021), equation 3.
"""

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_losses(features: Tensor, pair_weights: Tensor, temperature: float) -> Tensor:
    """The loss of each row as the anchor of a batch, [rows].

    It is minus the mean logarithm, weighed by pair, of the softmax over the batch's other rows of the cosine similarity
    divided by the temperature. A row without any pair has a loss of zero.

    Args:
        features: [rows, width], fp32 or wider; their lengths do not matter.
        pair_weights: How much each two rows belong together, [rows, rows], 0 to 1; those on the diagonal are not read.
        temperature: The smaller, the more the nearest rows count.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> together = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> contrastive_losses(features, together, 0.5)  # ln(1 + exp(-2)) twice, and a row without any pair
        tensor([0.1269, 0.1269, 0.0000])
    """
    unit = functional.normalize(features, dim=1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    logarithms = similarity.log_softmax(1).masked_fill(itself, 0.0)
    weights = pair_weights.to(features).masked_fill(itself, 0.0)
    total = weights.sum(1)
    return -(weights * logarithms).sum(1) / torch.where(total > 0, total, 1.0)
