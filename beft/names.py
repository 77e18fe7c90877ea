"""Look names up in a set of known ones, and answer a typo with the nearest of them."""

import difflib
from collections.abc import Iterable

from beft.errors import InputError


def unknown_name(name: str, known: Iterable[str], what: str) -> str:
    """Say that ``name`` is no known ``what``, with the nearest known name and the whole list."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}."


def known_name(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` when it is one of ``known``.

    Raises:
        InputError: It is not; the message names the nearest known name.
    """
    names = list(known)
    if name not in names:
        raise InputError(unknown_name(name, names, what))
    return name
