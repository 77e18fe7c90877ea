"""MultiRC (Khashabi et al., 2018), of SuperGLUE: many answers to a question on a passage, each right or wrong."""

from typing import Any

from beft.datasets.layouts.expected import Row, member, rows_of


def multirc(document: Any) -> list[Row]:
    """One row an answer.

    SuperGLUE's files have passages with questions with answers; the hub has a row an answer. Both number passages and
    questions alike, which names the group: all answers to one question.

    Returns:
        Rows with paragraph, question, answer, question_and_answer, label (1: right) and group.

    Raises:
        LayoutError: The document is in neither form.
    """
    rows: list[Row] = []
    for where, row in rows_of(document):
        if isinstance(row, dict) and "paragraph" in row:
            rows.append(_flat(row, where))
        else:
            rows += _nested(row, where)
    return rows


def _flat(row: Row, where: str) -> Row:
    place = member(row, "idx", dict, where)
    group = f"{member(place, 'paragraph', int, where)}-{member(place, 'question', int, where)}"
    paragraph, question, answer = (member(row, name, str, where) for name in ("paragraph", "question", "answer"))
    return _row(paragraph, question, answer, member(row, "label", int, where), group)


def _nested(row: Any, where: str) -> list[Row]:
    passage = member(row, "passage", dict, where)
    paragraph = member(passage, "text", str, f"{where}, passage")
    found = []
    for question in member(passage, "questions", list, f"{where}, passage"):
        group = f"{member(row, 'idx', int, where)}-{member(question, 'idx', int, f'{where}, question')}"
        asked = member(question, "question", str, f"{where}, question {group}")
        for answer in member(question, "answers", list, f"{where}, question {group}"):
            at = f"{where}, answer to question {group}"
            found.append(
                _row(paragraph, asked, member(answer, "text", str, at), member(answer, "label", int, at), group)
            )
    return found


def _row(paragraph: str, question: str, answer: str, label: int, group: str) -> Row:
    return {
        "paragraph": paragraph,
        "question": question,
        "answer": answer,
        "question_and_answer": f"{question.strip()} {answer.strip()}",
        "label": label,
        "group": group,
    }
