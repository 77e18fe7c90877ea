"""Find the columns that a description names among those that a file has."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from beft.errors import InputError


def column_positions(names: Sequence[str], wanted: Iterable[str], where: str) -> dict[str, int]:
    """The position of each column, in the file's order, under the name that the description gives it.

    A name of the description is found without blanks around it and in either Unicode form of accented letters. Only
    the columns that it names must be unique: of the others, those whose name stands there twice are left out.

    Args:
        where: The file, for the message.

    Raises:
        InputError: A column that the description names stands in the file twice.
    """
    found: dict[int, str] = {}
    for name in dict.fromkeys(wanted):
        alike = [at for at, other in enumerate(names) if other == name]
        alike = alike or [at for at, other in enumerate(names) if plain_name(other) == plain_name(name)]
        if len(alike) > 1:
            raise InputError(f"{where}: the column {name!r} is there {len(alike)} times: rename or remove all but one")
        found |= dict.fromkeys(alike, name)
    counts = Counter(names)
    for at, name in enumerate(names):
        if at not in found and counts[name] == 1 and name not in found.values():
            found[at] = name
    return {found[at]: at for at in sorted(found)}


def plain_name(name: str) -> str:
    """A column's name without blanks around it, in one Unicode form."""
    return unicodedata.normalize("NFC", name).strip()


def repeated_names(names: Sequence[str]) -> list[str]:
    """The names that stand there more than once."""
    return [name for name, count in Counter(names).items() if count > 1 and name.strip()]
