"""WiC (Pilehvar and Camacho-Collados, 2019, arXiv 1808.09121), of SuperGLUE: one word in two sentences."""

from typing import Any

from beft.datasets.layouts.expected import Row, member, rows_of


def wic(document: Any) -> list[Row]:
    """One row a pair of sentences; the word that they share stands behind the second, where a model can read it.

    Returns:
        Rows with sentence1, sentence2, sentence2_and_word, word and label.

    Raises:
        LayoutError: A row lacks one of them.
    """
    rows: list[Row] = []
    for where, row in rows_of(document):
        word, first, second = (member(row, name, str, where) for name in ("word", "sentence1", "sentence2"))
        rows.append(
            {
                "sentence1": first,
                "sentence2": second,
                "sentence2_and_word": f"{second} The word: {word}",
                "word": word,
                "label": member(row, "label", int, where),
            }
        )
    return rows
