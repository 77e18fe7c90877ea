"""The Winograd schemas of SuperGLUE (Levesque et al., 2012): does a pronoun refer to a certain noun?"""

from typing import Any

from beft.datasets.layouts.expected import Row, member, rows_of


def wsc(document: Any) -> list[Row]:
    """One row a pair of pronoun and noun.

    SuperGLUE's files have the spans under ``target``; on the hub they are columns. The pronoun is marked by asterisks,
    as T5 does it (Raffel et al., 2020, arXiv 1910.10683, appendix D.12), for the same word may stand in the text twice.

    Returns:
        Rows with text (the pronoun marked), question and label.

    Raises:
        LayoutError: The document is in neither form.
    """
    rows: list[Row] = []
    for where, row in rows_of(document):
        spans = member(row, "target", dict, where) if isinstance(row, dict) and "target" in row else row
        noun, pronoun = (member(spans, f"span{number}_text", str, where) for number in (1, 2))
        at = member(spans, "span2_index", int, where)
        question = f'Does the pronoun "*{pronoun}*" refer to {noun}?'
        text = marked(member(row, "text", str, where), pronoun, at)
        rows.append({"text": text, "question": question, "label": member(row, "label", int, where)})
    return rows


def marked(text: str, pronoun: str, at: int) -> str:
    """The text with asterisks around the pronoun.

    Args:
        at: The number of its (first) word. A few rows number their words otherwise: there the nearest place counts.
    """
    words = text.split()
    length = len(pronoun.split())

    def found(place: int) -> bool:
        return " ".join(words[place : place + length]).strip(".,;:!?'\"").startswith(pronoun)

    places = sorted((place for place in range(len(words)) if found(place)), key=lambda place: (abs(place - at), place))
    if not places:
        return text
    here = " ".join(words[places[0] : places[0] + length])
    begin = here.index(pronoun)
    here = f"{here[:begin]}*{pronoun}*{here[begin + len(pronoun) :]}"
    return " ".join([*words[: places[0]], here, *words[places[0] + length :]])
