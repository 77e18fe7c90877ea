"""CoNLL files: a word a line with its tag in the last column, and a blank line between sentences.

Tags are IOB2 (every entity begins with B-, as in the shared tasks since 2002) or IOB1 (B- only where an entity follows
another of its kind). One rule reads both: B- begins an entity, and so does an I- that continues none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beft.datasets.reading.text_files import text_lines
from beft.datasets.sources import Reading
from beft.errors import InputError

_TAG = re.compile(r"O|([BI])-(\S+)")
_DOCUMENT = "-DOCSTART-"


@dataclass
class Sentences:
    """The sentences of a file.

    Attributes:
        columns: ``text`` (the words with a space between), ``spans`` (a list of start, end and label) and, where the
            file marks them, ``document`` (its number).
        lines: The line that each sentence begins in; the first is 1.
        begun_inside: How many entities begin with I-, as IOB1 has them.
    """

    columns: dict[str, list[Any]] = field(default_factory=lambda: {"text": [], "spans": []})
    lines: list[int] = field(default_factory=list)
    begun_inside: int = 0


def read_conll(path: Path, reading: Reading) -> Sentences:
    """Read a CoNLL file; lines with ``-DOCSTART-`` begin a document, and comments (``# …``) are passed over.

    Raises:
        InputError: A line has no tag of these schemes, or the file is no text; the message has the line.
    """
    found, documents, document = Sentences(), [], 0
    with text_lines(path, reading) as lines:
        for number, sentence in _sentences(path, lines):
            if sentence[0][0] == _DOCUMENT:
                document += 1
                sentence = sentence[1:]
            if sentence:
                text, spans, inside = _with_spans(sentence)
                found.columns["text"].append(text)
                found.columns["spans"].append(spans)
                found.lines.append(number)
                found.begun_inside += inside
                documents.append(document)
    if document:
        found.columns["document"] = documents
    return found


def is_conll(path: Path, encoding: str) -> bool:
    """Whether the first lines of a file are words with tags, some of them of entities."""
    tags = []
    try:
        with text_lines(path, Reading(encoding=encoding)) as lines:
            for _, sentence in _sentences(path, lines):
                tags += [tag for _, tag in sentence]
                if len(tags) > 2000:
                    break
    except InputError:
        return False
    return any(tag != "O" for tag in tags)


def _sentences(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """The line that each sentence begins in, and its words with their tags."""
    sentence: list[tuple[str, str]] = []
    first = 1
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if sentence:
                yield first, sentence
            sentence = []
            continue
        bare = line.strip()
        # Other blanks than these, such as those within large numbers, are part of a word.
        parts = bare.split("\t") if "\t" in bare else filter(None, bare.split(" "))
        fields = [part.strip() for part in parts]
        if fields[0] == _DOCUMENT:
            if sentence:
                yield first, sentence
            sentence, first = [(_DOCUMENT, "O")], number
            continue
        if len(fields) < 2 or not fields[0] or not _TAG.fullmatch(fields[-1]):
            if line.startswith("#") and "\t" not in line:
                continue
            what = f"its last column is {fields[-1]!r}" if len(fields) > 1 else f"it is {bare!r} alone"
            raise InputError(
                f"{path.name}, line {number}: a line must be a word and its tag, O, B-LABEL or I-LABEL (IOB2 or IOB1), "
                f"but {what}; convert other schemes, or correct the line"
            )
        if not sentence or sentence == [(_DOCUMENT, "O")]:
            first = number
        sentence.append((fields[0], fields[-1]))
    if sentence:
        yield first, sentence


def _with_spans(sentence: list[tuple[str, str]]) -> tuple[str, list[dict[str, Any]], int]:
    """The text of words, its spans, and how many of them begin with I-."""
    spans: list[dict[str, Any]] = []
    text, inside = "", 0
    open_label = None
    for word, tag in sentence:
        start = len(text) + bool(text)
        text += f"{' ' if text else ''}{word}"
        known = _TAG.fullmatch(tag)
        prefix, label = known.groups() if known else (None, None)
        if prefix == "I" and label == open_label:
            spans[-1]["end"] = len(text)
        elif label is not None:
            spans.append({"start": start, "end": len(text), "label": label})
            inside += prefix == "I"
        open_label = label
    return text, spans, inside
