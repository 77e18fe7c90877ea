"""How many rows of each stratum a split takes: its share, and of rare labels what a training cannot do without."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def deciles(values: Sequence[float]) -> list[int]:
    """The tenth of all rows that each value lies in, 0 to 9, equal values in the same: the strata of a regression."""
    ranks = sorted(values)
    return [10 * bisect_left(ranks, value) // len(values) for value in values]


def quotas(counts: Sequence[int], total: int) -> list[int]:
    """Share ``total`` among strata in proportion to their counts, by the largest remainders.

    Args:
        counts: Rows of each stratum.
    """
    rows = sum(counts)
    shares = [total * count // rows if rows else 0 for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda at: (-(total * counts[at] % rows) if rows else 0, at))
    for at in by_remainder[: total - sum(shares)]:
        shares[at] += 1
    return shares


@dataclass(frozen=True)
class Reserve:
    """What a split must have of each label that is so rare that its share would be less than a row.

    Attributes:
        taken: Rows of every label, where there are as many and others can spare them.
        left: Rows of every label that the rest keeps, where there are as many.
        kinds: Labels of which it has a row, even where ``left`` forbids it, as long as the rest keeps one.
    """

    taken: int = 0
    left: int = 0
    kinds: int = 0


RESERVES = {
    "sample": Reserve(taken=2),  # one for train, one for dev
    "dev": Reserve(taken=1, left=1, kinds=2),
    "gate": Reserve(taken=1, left=2, kinds=2),
    "test": Reserve(taken=1, left=2, kinds=2),
}


def rows_of_strata(
    counts: Counter[int], total: int, reserve: Reserve, usable: Mapping[int, int] | None = None
) -> dict[int, int]:
    """How many rows of each stratum are to be taken: its quota, but for strata so rare that they would be missing.

    Args:
        usable: How many rows of each stratum the other splits could take; None: all.
    """
    names = sorted(counts)
    need = dict(zip(names, quotas([counts[name] for name in names], total), strict=True))
    usable = counts if usable is None else usable

    def room(left: int) -> dict[int, int]:
        return {name: max(0, usable[name] - left) for name in names}

    def move(source: int, target: int) -> None:
        need[source] -= 1
        need[target] += 1

    def leave(room: dict[int, int]) -> bool:
        """Take no more of a stratum than there is room for; False where the others have none left."""
        while over := [name for name in names if need[name] > room[name]]:
            free = [name for name in names if need[name] < room[name]]
            if not free:
                return False
            move(over[0], max(free, key=lambda name: (room[name] - need[name], -name)))
        return True

    def fill(rows: int, kinds: int, room: dict[int, int]) -> None:
        """Take so many rows of strata that have fewer, until so many strata have them."""
        while sum(need[name] >= rows for name in names) < kinds:
            missing = [name for name in names if need[name] < rows and need[name] < room[name]]
            most = max(names, key=lambda name: (need[name], -name))
            if not missing or need[most] <= rows:
                return
            move(most, max(missing, key=lambda name: (counts[name], -name)))

    if not leave(room(reserve.left)):
        leave(room(min(1, reserve.left)))
    for rows in range(1, reserve.taken + 1):
        fill(rows, len(names), room(reserve.left))
    fill(1, min(reserve.kinds, len(names)), room(1))
    return need
