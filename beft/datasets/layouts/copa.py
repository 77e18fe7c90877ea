"""COPA (Roemmele et al., 2011), of SuperGLUE: which of two sentences is the cause, or the effect, of a first one?"""

from typing import Any

from beft.datasets.layouts.expected import LayoutError, Row, member, rows_of

_CONNECTIVES = {"cause": "because", "effect": "so"}


def copa(document: Any) -> list[Row]:
    """One row a premise, with an opening that either choice completes ("… over the grass because").

    Returns:
        Rows with premise, opening, choice1, choice2 and label (0 or 1).

    Raises:
        LayoutError: A row lacks one of its parts, or asks for something else than cause or effect.
    """
    rows: list[Row] = []
    for where, row in rows_of(document):
        asked = member(row, "question", str, where)
        if asked not in _CONNECTIVES:
            raise LayoutError(f"{where}: expected 'cause' or 'effect' under 'question', found {asked!r}")
        premise, first, second = (member(row, name, str, where) for name in ("premise", "choice1", "choice2"))
        opening = f"{premise.strip().rstrip('.')} {_CONNECTIVES[asked]}"
        label = member(row, "label", int, where)
        rows.append({"premise": premise, "opening": opening, "choice1": first, "choice2": second, "label": label})
    return rows
