"""SQuAD 1.1 (Rajpurkar et al., 2016, arXiv 1606.05250): questions that a span of a paragraph answers."""

from typing import Any

from beft.datasets.layouts.expected import Row, member, rows_of, texts


def squad(document: Any) -> list[Row]:
    """One row a question.

    The published file has articles with paragraphs with questions under ``data``; the hub has a row a question.

    Returns:
        Rows with title, context, question and answers (every annotator's).

    Raises:
        LayoutError: The document is in neither form.
    """
    if isinstance(document, dict):
        articles = member(document, "data", list, "the file")
        return [row for number, article in enumerate(articles, 1) for row in _article(article, f"article {number:,}")]
    rows: list[Row] = []
    for where, row in rows_of(document):
        title, context, question = (member(row, name, str, where) for name in ("title", "context", "question"))
        answers = member(member(row, "answers", dict, where), "text", list, f"{where}, answers")
        rows.append({"title": title, "context": context, "question": question, "answers": texts(answers, where)})
    return rows


def _article(article: Any, where: str) -> list[Row]:
    title = member(article, "title", str, where)
    found = []
    for paragraph in member(article, "paragraphs", list, where):
        context = member(paragraph, "context", str, f"{where}, paragraph")
        for asked in member(paragraph, "qas", list, f"{where}, paragraph"):
            question = member(asked, "question", str, f"{where}, question")
            answers = [
                member(answer, "text", str, f"{where}, answer")
                for answer in member(asked, "answers", list, f"{where}, question")
            ]
            found.append({"title": title, "context": context, "question": question, "answers": answers})
    return found
