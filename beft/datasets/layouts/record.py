"""ReCoRD (Zhang et al., 2018, arXiv 1810.12885), of SuperGLUE: which entity of a passage fills the gap of a query."""

from typing import Any

from beft.datasets.layouts.expected import Row, member, rows_of, texts


def record(document: Any) -> list[Row]:
    """One row a query.

    SuperGLUE's files have passages with entities (first and last character) and queries; the hub has a row a query.
    Entities and answers stand in alphabetical order, each once, so that both forms give the same rows.

    Returns:
        Rows with passage, query (with ``@placeholder`` as the gap), entities and answers.

    Raises:
        LayoutError: The document is in neither form.
    """
    rows: list[Row] = []
    for where, row in rows_of(document):
        if isinstance(row, dict) and "query" in row:
            passage, query = (member(row, name, str, where) for name in ("passage", "query"))
            entities, answers = (texts(member(row, name, list, where), where) for name in ("entities", "answers"))
            rows.append(_row(passage, query, entities, answers))
        else:
            rows += _nested(row, where)
    return rows


def _nested(row: Any, where: str) -> list[Row]:
    passage = member(row, "passage", dict, where)
    text = member(passage, "text", str, f"{where}, passage")
    entities = []
    for entity in member(passage, "entities", list, f"{where}, passage"):
        first, last = (member(entity, name, int, f"{where}, entity") for name in ("start", "end"))
        entities.append(text[first : last + 1])
    found = []
    for question in member(row, "qas", list, where):
        query = member(question, "query", str, f"{where}, query")
        answers = [
            member(answer, "text", str, f"{where}, answer")
            for answer in member(question, "answers", list, f"{where}, query")
        ]
        found.append(_row(text, query, entities, answers))
    return found


def _row(passage: str, query: str, entities: list[str], answers: list[str]) -> Row:
    return {"passage": passage, "query": query, "entities": sorted(set(entities)), "answers": sorted(set(answers))}
