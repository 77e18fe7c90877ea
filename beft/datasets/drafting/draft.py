"""Draft the description of a dataset from a file of rows: to be looked at, corrected and used."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from beft.datasets.description import NAME, Description, canonical
from beft.datasets.drafting.detection import find_reading
from beft.datasets.drafting.label_sets import LABEL_NAMES, MOST_LABELS, LabelSets, find_label_sets
from beft.datasets.drafting.spans import SpanColumn, find_spans
from beft.datasets.headline import usual_headline
from beft.datasets.reading.raw_data import Values
from beft.datasets.sources import Reading
from beft.datasets.splitting.shares import in_one_line, measured_shares
from beft.datasets.targets import number_of
from beft.errors import InputError
from beft.names import known_name
from beft.yaml_text import format_yaml, parse_yaml

_LEAST_ROWS = 20
"""As ``data/expectations/raw.yaml`` has it."""
_FEW_LABELS = 20
_LARGE, _LOW = 2500, 1000
"""Data of more rows gets a size ``low``, so that the first run is no long one."""
_RARE = 2
_LOPSIDED = 0.8
_TEXT_NAMES = "text sentence review message content body question premise tweet comment document title"

_VALUE_NAMES = "score similarity rating stars"
_CHOICE_NAME = re.compile(r"(option|choice|answer|ending|alternative|candidate|distractor)s?[ _.-]?[a-h0-9]?|[a-h]")


@dataclass(frozen=True)
class Draft:
    """A description with what should be said of it.

    Attributes:
        labels: Rows of each label; empty for a regression.
        sets: Whether a row can have several labels, of its own or of its spans.
        notes: What somebody should look at, one sentence each.
    """

    description: Description
    labels: Mapping[str, int]
    notes: Sequence[str]
    sets: bool = False

    def to_yaml(self, divided: Sequence[str]) -> str:
        """The description with comments.

        Args:
            divided: How the rows are divided, one sentence each.

        Raises:
            InputError: It would not be read as what it is.
        """
        values = self.description.model_dump(mode="json", exclude_defaults=True, exclude={"name", "labels", "shares"})
        values.pop("metrics", None)
        if self.labels:
            values["metric"] = self.description.metric
        [values["source"]["train"]] = values["source"]["train"]
        parts = ["# Drafted from the file: look at it, and correct what is wrong.", _block(values)]
        if self.labels:
            lines = [f"  - {in_one_line(name)}  # {_rows(count)}" for name, count in self.labels.items()]
            shares = [] if self.sets else [f"shares: {in_one_line(dict(self.description.shares))}"]
            parts.append("\n".join(["labels:", *lines, *shares]))
        parts += [f"# {_printable(note)}" for note in (*self.notes, *divided)]
        text = "\n".join(parts) + "\n"
        try:
            read = Description.from_mapping({**parse_yaml(text), "name": self.description.name}, "the draft")
        except (ValueError, InputError):
            read = None
        if read != self.description:
            raise InputError("a name or a value in this file cannot be written as YAML: describe the dataset by hand")
        return text


def draft_description(
    file: Path,
    root: Path,
    *,
    name: str | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
) -> Draft:
    """Read a file and describe what is in it.

    Args:
        root: The working folder, where the paths of a description begin.
        name: The dataset's name; None: made of the file's.
        text: The columns, where they are not to be found out; likewise ``text_pair`` and ``label``.

    Raises:
        InputError: The file cannot be read, or nothing in it is a label or a text.
    """
    name = name or re.sub(r"[^a-z0-9]+", "_", file.name.split(".")[0].lower()).strip("_") or "mine"
    if not NAME.fullmatch(name):
        raise InputError(f"a dataset cannot be called {name!r}: lower-case letters, digits, - and _ only")
    found = find_reading(file)
    columns = found.columns
    rows = max(map(len, columns.values()), default=0)
    if rows < _LEAST_ROWS:
        found_rows = f"{file.name} has no rows" if rows == 0 else f"{file.name}: {_rows(rows)} are too few"
        raise InputError(f"{found_rows}: bring {_LEAST_ROWS} or more")
    _check_given(columns, found.repeated, {"--text": text, "--text-pair": text_pair, "--label": label})
    apart = f"; of {_listed(found.repeated)} there are several, so none was looked at" if found.repeated else ""
    texts = [given for given in (text, text_pair) if given]
    candidates = [label] if label else [name for name in columns if name not in texts]
    spans = find_spans(columns, candidates)
    sets = None if spans else find_label_sets(columns, candidates, chosen=label is not None)
    found_column = spans or sets
    label = (label or found_column.column) if found_column else label or _label_column(columns, texts, rows, apart)
    if spans and text is None and spans.texts:
        named = [name for name in spans.texts if name.strip().lower() in _TEXT_NAMES.split()]
        text = max(named or spans.texts, key=lambda name: _characters(columns[name]))
    text, text_pair, further = _text_columns(columns, label, text, text_pair, apart)
    values: dict[str, Any] = {
        "name": name,
        "title": f"drafted from {file.name}",
        "version": 1,
        "source": _source(file, root, found.reading),
        "columns": {
            "text": text,
            **({"text_pair": text_pair} if text_pair else {}),
            "spans" if spans else "labels" if sets else "label": label,
        },
    }
    if spans:
        target, labels, of_label = _target_of_spans(spans)
    else:
        target, labels, of_label = _target_of_sets(sets) if sets else _target(label, columns[label])
    if rows > _LARGE:
        values["sizes"] = {"low": _LOW}
    notes = [*found.notes, *of_label]
    if further:
        notes.append(f"columns that are not used: {', '.join(further)}")
    if choices := _choice_columns(columns, further):
        notes.append(
            f"{', '.join(choices)}: where they hold a row's choices and {label!r} the right one, say 'shape: "
            "multiple_choice' and name them in columns.choices (data/README.md)"
        )
    if found.repeated:
        notes.append(f"columns that are left out, for several have this name: {', '.join(found.repeated)}")
    rare = [name for name, count in labels.items() if count <= _RARE]
    if rare:
        notes.append(f"labels with very few rows, a slip of the pen perhaps: {', '.join(rare)}")
    return Draft(Description.from_mapping(values | target, file.name), labels, notes, found_column is not None)


def _check_given(columns: Values, repeated: Sequence[str], given: Mapping[str, str | None]) -> None:
    """Refuse columns that a call names and that are not there, are there several times, or are named for two things.

    Raises:
        InputError: There is such a column.
    """
    options: dict[str, str] = {}
    for option, name in given.items():
        if name is None:
            continue
        if name in repeated:
            raise InputError(f"the column {name!r} is there more than once: rename or remove all but one")
        known_name(name, columns, "column")
        if name in options:
            raise InputError(f"{options[name]} and {option} both name the column {name!r}")
        options[name] = option


def _choice_columns(columns: Values, unused: Sequence[str]) -> list[str]:
    """Unused columns that may hold the choices of multiple choice: one of lists of texts, or several by their names."""
    for name in unused:
        if all(
            isinstance(of, list) and len(of) > 1 and all(isinstance(one, str) for one in of) for of in columns[name]
        ):
            return [name]
    named = [name for name in unused if _CHOICE_NAME.fullmatch(name.strip().lower())]
    return named if len(named) > 1 else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _source(file: Path, root: Path, reading: Reading) -> dict[str, Any]:
    path = file.resolve()
    known = path.relative_to(root.resolve()) if path.is_relative_to(root.resolve()) else path
    return {"kind": "files", "train": known.as_posix(), **reading.model_dump(mode="json", exclude_defaults=True)}


def _label_column(columns: Values, texts: Sequence[str], rows: int, apart: str) -> str:
    """The column that holds labels: by its name, else the one with the fewest different values.

    Args:
        apart: What a message says of columns that are not among these.
    """
    different = {
        name: {canonical(value) for value in values if not _is_missing(value)}
        for name, values in columns.items()
        if name not in texts and not any(isinstance(value, list | dict) for value in values)
    }
    known = [*LABEL_NAMES.split(), *_VALUE_NAMES.split()]
    named = [name for name in different if name.strip().lower() in known]
    for name in sorted(named, key=lambda name: known.index(name.strip().lower())):
        numbers = all(number_of(value) is not None for value in different[name])
        if len(different[name]) >= 2 and (numbers or len(different[name]) <= rows // 2):
            return name
    most = min(MOST_LABELS, max(2, rows // 4))
    candidates = {name: len(values) for name, values in different.items() if 2 <= len(values) <= most}
    if not candidates:
        raise InputError(
            f"no column has between 2 and {most} different values, as labels do: name the one that holds them with "
            f"--label; the columns are {_listed(list(columns))}{apart}"
        )
    return min(candidates, key=lambda name: (candidates[name], _words(columns[name])))


def _is_missing(value: Any) -> bool:
    """Whether a cell holds no label: nothing, NaN, or blanks alone."""
    return value is None or value != value or canonical(value) == ""


def _text_columns(
    columns: Values, label: str, text: str | None, text_pair: str | None, apart: str
) -> tuple[str, str | None, list[str]]:
    """The text, the second text, and the columns that are neither."""
    others = [name for name in columns if name not in (label, text, text_pair)]
    holding = [name for name in others if _words(columns[name]) > 0]
    if text is None:
        if not holding:
            raise InputError(
                "no column beside the label holds text in every row: name the one that does with --text; the columns "
                f"are {_listed(list(columns))}{apart}"
            )
        sentences = [name for name in holding if _words(columns[name]) >= 3]
        if text_pair is None and len(sentences) == 2:
            text, text_pair = sentences
        else:
            known = _TEXT_NAMES.split()
            named = [name for name in sentences if name.strip().lower() in known]
            text = max(named or sentences or holding, key=lambda name: _characters(columns[name]))
    used = (label, text, text_pair)
    return text, text_pair, [name for name in columns if name not in used]


def _words(values: Sequence[Any]) -> float:
    """Words of a value on average; 0 of a column that holds something else than text."""
    if not all(isinstance(value, str) or value is None for value in values):
        return 0.0
    if all(number_of(value) is not None for value in values):
        return 0.0
    return fmean(len(str(value or "").split()) for value in values)


def _characters(values: Sequence[Any]) -> float:
    return fmean(len(str(value or "")) for value in values)


def _target(column: str, values: Sequence[Any]) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Labels, shares and metric of a classification, or the range of a regression; the rows of each label; notes."""
    counts = Counter(canonical(value) for value in values if not _is_missing(value))
    numbers = [number_of(name) for name in counts]
    scale = [number for number in numbers if number is not None]
    whole = all(number.is_integer() for number in scale)
    many = len(scale) > _FEW_LABELS
    # Classes are numbered from 0 on, and none of them is left out.
    classes = sorted(scale) == list(range(min(len(scale), MOST_LABELS))) and min(counts.values(), default=0) > 1
    if len(scale) == len(numbers) and (not whole or (many and not classes)):
        least, most = math.floor(min(scale)), math.ceil(max(scale))
        note = f"the whole numbers in {column!r} are taken for values on a scale: of classes, list the labels instead"
        return {"shape": "regression", "label_range": [least, most]}, {}, [note] if whole else []
    if len(counts) < 2:
        raise InputError(f"the column {column!r} has but one value: there is nothing to tell apart")
    if len(counts) > MOST_LABELS or max(counts.values()) == 1:
        raise InputError(
            f"the column {column!r} has {len(counts):,} different values in {_rows(counts.total())}, which are no "
            "labels: name another with --label, or describe the dataset by hand"
        )
    order = sorted(counts, key=float) if len(scale) == len(numbers) else sorted(counts)
    labels = {name: counts[name] for name in order}
    shares = measured_shares(labels)
    metric, why = usual_headline(labels)
    if why is None and max(shares.values()) > _LOPSIDED:
        metric, why = "macro_f1", f"one label has more than {100 * _LOPSIDED:g} % of the rows"
    note = f"the numbers in {column!r} are taken for classes: of values on a scale, say 'shape: regression' instead"
    notes = [note] if many and len(scale) == len(numbers) else []
    if why:
        notes.append(f"metric: macro_f1, in which every label counts alike, for {why}")
    return {"labels": list(labels), "shares": shares, "metric": metric}, labels, notes


def _target_of_sets(sets: LabelSets) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Labels of a multi-label classification, what stands between them, and the rows of each label; notes."""
    separator = {} if sets.separator is None else {"label_separator": sets.separator}
    how = "a list" if sets.separator is None else f"a text with {sets.separator!r} between labels"
    notes = [
        f"the values in {sets.column!r} are {how}, so a row can have several labels, or none ({_rows(sets.empty)} have "
        "none): of one label a row, say 'shape: classification' and 'label' instead"
    ]
    return {"shape": "multi_label", **separator, "labels": list(sets.counts)}, dict(sets.counts), notes


def _target_of_spans(spans: SpanColumn) -> tuple[dict[str, Any], dict[str, int], list[str]]:
    """Labels of a token classification, and the rows of each; notes."""
    notes = [
        f"{spans.column!r} holds labelled spans of the text ({_rows(spans.empty)} have none): the words of a text get "
        "tags, and entities are the answers"
    ]
    return {"shape": "token_classification", "labels": list(spans.counts)}, dict(spans.counts), notes


def _printable(note: str) -> str:
    """A note in one line, without characters that YAML refuses."""
    return " ".join("".join(character if character.isprintable() else " " for character in note).split())


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def _block(values: Any) -> str:
    return format_yaml(values, width=2**31).rstrip()
