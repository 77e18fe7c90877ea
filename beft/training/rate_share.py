"""How much of the usual learning rate suits a base: the larger it is, the further a step moves its features."""

import numpy as np
import torch
from torch import Tensor

from beft.bank.bank import Bank
from beft.encoding.examples import LabelledRows
from beft.inference.features import extract_features
from beft.models.classifier import Classifier
from beft.process_state import with_own_threads
from beft.sites.site import BiasSite, find_sites
from beft.training_settings import TargetSettings

SHARES = (1.0, 0.3, 0.1, 0.03)
"""What the usual learning rate may be multiplied by: steps of about half a decade, for dev cannot tell finer ones."""

FURTHEST = 1 / 16
"""How far a step may move the features, in units of their spread.

A step of 0.01 moves those of the default encoder, for which the usual rate was found, by 0.035 to 0.050 of it
(benchmarks/learning_rates.md).
"""

_ROWS = 64


def rate_share(classifier: Classifier, rows: LabelledRows) -> float:
    """The largest of ``SHARES`` at which a step of the value biases moves the features by at most ``FURTHEST``.

    In an early step Adam moves every bias by about the learning rate, whatever its gradient. A base whose features such
    a step throws far off learns little with the usual rate of smaller bases, or nothing. Two forward passes over a few
    rows measure it before the training; no label is read.

    Args:
        rows: Those to learn from; the first 64 are used.

    Returns:
        1 for a language model, whose answers are no function of pooled features alone.
    """
    if not classifier.problem_type.has_head:
        return SHARES[0]
    moved = relative_step(classifier, rows, TargetSettings.usual_learning_rate)
    return next((share for share in SHARES if share * moved <= FURTHEST), SHARES[-1])


@with_own_threads
def relative_step(classifier: Classifier, rows: LabelledRows, step: float) -> float:
    """How far a step of every value bias, each up or down at random, moves the features that the head sees.

    Up to twice the largest usual rate the answer is proportional to the step.

    Args:
        rows: The first 64 are used.
        step: The size of the step of each bias.

    Returns:
        The median over the rows of how far their features move, divided by the median of how far they are from their
        mean; 0 where they are all the same. Medians, because in a decoder the first token of a short text can have
        features of another magnitude.
    """
    encoded = rows.take(np.arange(min(_ROWS, len(rows)))).encoded
    chance = torch.Generator().manual_seed(0)
    steps: dict[BiasSite, Tensor] = {
        site: step * (2.0 * torch.randint(0, 2, (site.width,), generator=chance) - 1.0)
        for site in find_sites(classifier.model, ["value"], add=True)
    }
    before = extract_features(classifier, encoded, "head").double()
    with Bank(classifier.model, steps):
        after = extract_features(classifier, encoded, "head").double()
    spread = (before - before.mean(0)).norm(dim=1).median()
    return float((after - before).norm(dim=1).median() / spread) if spread > 0 else 0.0
