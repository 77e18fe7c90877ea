"""DROP (Dua et al., 2019, arXiv 1903.00161): numbers, dates and spans that answer questions on a passage."""

from typing import Any

from beft.datasets.layouts.expected import LayoutError, Row, json_kind, member, rows_of, texts


def drop(document: Any) -> list[Row]:
    """One row a question.

    The published file has passages with questions, by the passage's name; the hub has a row a question with the spans
    of one answer; a third form has a row a question with every answer as text. The spans of an answer stand one on each
    line, as the metrics read them; where an answer is text already, it stays as it is and counts as one span.
    Questions of the published file that nobody answered are no rows.

    Returns:
        Rows with passage, question and answers (the first one, then those of the validation, each once).

    Raises:
        LayoutError: The document is in none of these forms.
    """
    if isinstance(document, dict):
        return [row for name, passage in document.items() for row in _passage(passage, f"passage {name!r}")]
    rows: list[Row] = []
    for where, row in rows_of(document):
        passage, question = (member(row, name, str, where) for name in ("passage", "question"))
        if "answers_spans" in row:
            spans = member(member(row, "answers_spans", dict, where), "spans", list, f"{where}, answers_spans")
            answers = ["\n".join(texts(spans, where))]
        else:
            answers = texts(member(row, "answers", list, where), where)
        rows.append({"passage": passage, "question": question, "answers": list(dict.fromkeys(answers))})
    return rows


def _passage(passage: Any, where: str) -> list[Row]:
    text = member(passage, "passage", str, where)
    found = []
    for asked in member(passage, "qa_pairs", list, where):
        question = member(asked, "question", str, f"{where}, question")
        given = [member(asked, "answer", dict, f"{where}, question")]
        if asked.get("validated_answers") is not None:
            given += member(asked, "validated_answers", list, f"{where}, question")
        answers = [answer for one in given if (answer := answer_text(one, f"{where}, answer"))]
        if answers:
            found.append({"passage": text, "question": question, "answers": list(dict.fromkeys(answers))})
    return found


def answer_text(answer: Any, where: str) -> str:
    """The number, the spans (one on each line) or the date of an answer as text; empty where it has none of them.

    Raises:
        LayoutError: It is no object, or its parts are not text.
    """
    if not isinstance(answer, dict):
        raise LayoutError(f"{where}: expected an object with 'number', 'spans' or 'date', found {json_kind(answer)}")
    number = str(answer.get("number") or "").strip()
    if number:
        return number
    spans = texts(answer.get("spans") or [], where)
    if spans:
        return "\n".join(spans)
    date = answer.get("date") or {}
    return " ".join(str(date[part]) for part in ("day", "month", "year") if date.get(part))
