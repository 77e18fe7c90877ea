"""Long loops that say how far they are."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

LINE_SECONDS = 10.0
"""The time between two lines where there is no terminal."""

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], total: int, what: str, say: Callable[[str], None]) -> Iterator[Item]:
    """Yield each item of a long loop; about every ten seconds, say how many are done and how long the others may take.

    A loop that ends within ten seconds says nothing.

    Args:
        total: How many items there are.
        what: Their name, in the plural.
        say: Takes one line of text at a time.

    Example:
        >>> for epoch in with_progress(range(3), 3, "epochs", print):
        ...     pass
    """
    began = told = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - told > LINE_SECONDS:
            say(f"{done} of {total} {what}, about {(now - began) / done * (total - done):.0f} s left")
            told = now
        yield item
