"""Two ways to do the same work, timed in turns."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("beft.bench")


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same work.

    Attributes:
        title: What was compared.
        asked: The ratio that was asked for.
        ratio: Median time of the peer over median time of beft: above 1, beft is faster.
        low: The smallest ratio of a pair of repetitions.
        high: The largest.
        ours: Median seconds of beft.
        theirs: Median seconds of the peer.
        examples: How many examples each side computed in that time.
        note: What a reader must know.
    """

    title: str
    asked: str
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float
    examples: int
    note: str = ""


def compare(
    title: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    examples: int,
    asked: str,
    repetitions: int,
    note: str = "",
    their_examples: int | None = None,
) -> Comparison:
    """Time both sides in turns. Where a side does fewer examples, its time is scaled to as many as the other's."""
    scale = examples / (their_examples or examples)
    pairs: list[tuple[float, float]] = []
    for repetition in range(repetitions + 1):
        pair = (_seconds(ours), scale * _seconds(theirs))
        if repetition:
            pairs.append(pair)
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [two / one for one, two in pairs]
    found = Comparison(title, asked, second / first, min(ratios), max(ratios), first, second, examples, note)
    log.info("%s: %.2f [%.2f, %.2f]", title, found.ratio, found.low, found.high)
    return found


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
