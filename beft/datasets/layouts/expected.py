"""Look into a nested document, and say what was expected where, and what was found instead."""

from typing import Any

Row = dict[str, Any]
_NAMES = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}


class LayoutError(ValueError):
    """A document is not in the layout that it should be in."""


def member(parent: Any, name: str, kind: type, where: str) -> Any:
    """What an object holds under a name.

    Args:
        kind: dict, list, str or int.
        where: How the object is called in the message, for example ``row 3``.

    Raises:
        LayoutError: It is no object, has no such name, or holds something else there.
    """
    if not isinstance(parent, dict):
        raise LayoutError(f"{where}: expected an object with {name!r}, found {json_kind(parent)}")
    if name not in parent:
        raise LayoutError(f"{where}: expected {name!r}, found only {', '.join(map(repr, parent)) or 'nothing'}")
    value = parent[name]
    if not isinstance(value, kind):
        raise LayoutError(f"{where}: expected {_NAMES[kind]} under {name!r}, found {json_kind(value)}")
    return value


def rows_of(document: Any) -> list[tuple[str, Any]]:
    """The rows of a document that must be a list, each with its place.

    Raises:
        LayoutError: It is none.
    """
    if not isinstance(document, list):
        raise LayoutError(f"expected a list of rows, found {json_kind(document)}")
    return [(f"row {number:,}", row) for number, row in enumerate(document, 1)]


def texts(values: list[Any], where: str) -> list[str]:
    """The same list, all of whose members are text.

    Raises:
        LayoutError: One of them is not.
    """
    for value in values:
        if not isinstance(value, str):
            raise LayoutError(f"{where}: expected texts, found {json_kind(value)}")
    return values


def json_kind(value: Any) -> str:
    """What kind of JSON value this is."""
    return "nothing" if value is None else _NAMES.get(type(value), type(value).__name__)
