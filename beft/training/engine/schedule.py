"""The schedule of the learning rate, and which epoch counts: the same for every training that is compared."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from beft.metrics.registry import rank_on_dev


class Scheduled(Protocol):
    """What names a schedule: the settings of a training, or a search."""

    @property
    def schedule(self) -> str:
        """``linear`` (to zero) or ``constant``."""

    @property
    def warmup_fraction(self) -> float:
        """Share of the steps in which the rate rises."""


def lr_multiplier(settings: Scheduled, step: int, total: int) -> float:
    """The share of the peak learning rate at the next step: a linear rise, then constant or a linear fall to zero.

    Args:
        step: Steps taken so far.
        total: Steps of the whole training.
    """
    warmup = int(settings.warmup_fraction * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    return max(0.0, (total - step) / max(1, total - warmup))


def chosen_epoch(select: str, history: Sequence[Mapping[str, Any]]) -> int:
    """The epoch that counts.

    Args:
        select: ``best`` (best dev metric, lower dev loss on a tie, then the earlier epoch) or ``last``.
        history: A record an epoch: epoch, and for ``best`` dev_metric and dev_loss.
    """
    if select == "last":
        return int(history[-1]["epoch"])
    best = max(history, key=lambda one: (*rank_on_dev(one["dev_metric"], one["dev_loss"]), -one["epoch"]))
    return int(best["epoch"])
