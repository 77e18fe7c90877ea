"""What the rows of a raw file are to be answered with, checked: a label, a value, choices, answers, and their group."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from beft.datasets.description import Description, canonical
from beft.datasets.normalisation import is_blank
from beft.datasets.reading.raw_data import RawFile
from beft.datasets.spans import Spans, checked_spans

_SHOWN = 5


class Target(NamedTuple):
    """What a row is to be answered with.

    Attributes:
        label: The number of the label or of the (first) right choice, the numbers of the labels (of the spans' labels)
            in their order, or the value; 0 where the problem type has none.
    """

    label: int | float | tuple[int, ...]
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    group: str = ""
    spans: Spans = ()


def checked_targets(file: RawFile, description: Description, problems: list[str]) -> list[Target | None]:
    """The target of each row of a file; None where it is not what the description says, and a problem said."""
    columns = description.columns
    rows = len(file.numbers)
    choices = _choices(file, description, problems) if columns.choices else [()] * rows
    answers = _lists(file, columns.answers, problems) if columns.answers else [()] * rows
    groups = _groups(file, columns.group, problems) if columns.group else [""] * rows
    labels: Sequence[int | float | tuple[int, ...] | None]
    spans: Sequence[Spans | None] = [()] * rows
    if description.shape == "classification":
        labels = _labels(file, description, problems)
    elif description.shape == "multi_label":
        labels = _label_sets(file, description, problems)
    elif description.shape == "token_classification":
        spans = checked_spans(file, description, problems)
        labels = [None if of_row is None else tuple(sorted({number for *_, number in of_row})) for of_row in spans]
    elif description.shape == "regression":
        labels = _values(file, description, problems)
    elif description.shape == "multiple_choice":
        labels = _right_choices(file, description, choices, answers, problems)
    else:
        labels = [0] * rows
    return [
        None if None in found else Target(*found)  # type: ignore[arg-type]
        for found in zip(labels, choices, answers, groups, spans, strict=True)
    ]


def _labels(file: RawFile, description: Description, problems: list[str]) -> list[int | None]:
    """The number of each row's label; None where its value is none of the declared ones."""
    numbers = description.label_numbers
    column = str(description.columns.label)
    outside: dict[str, list[int]] = defaultdict(list)
    labels: list[int | None] = []
    for number, value in zip(file.numbers, file.columns[column], strict=True):
        label = None if value is None else numbers.get(canonical(value))
        if label is None:
            outside["nothing" if value is None else repr(value)].append(number)
        labels.append(label)
    _say_undeclared(file, description, column, outside, problems)
    return labels


def _label_sets(file: RawFile, description: Description, problems: list[str]) -> list[tuple[int, ...] | None]:
    """The numbers of each row's labels, in their order; None where one of its values is none of the declared ones."""
    numbers = description.label_numbers
    column = str(description.columns.labels)
    outside: dict[str, list[int]] = defaultdict(list)
    foreign: list[int] = []
    sets: list[tuple[int, ...] | None] = []
    for number, value in zip(file.numbers, file.columns[column], strict=True):
        values = labels_in(value, description.label_separator)
        if values is None:
            foreign.append(number)
            sets.append(None)
            continue
        found = {one: None if one is None else numbers.get(canonical(one)) for one in values}
        for one, label in found.items():
            if label is None:
                outside["nothing" if one is None else repr(one)].append(number)
        known = [label for label in found.values() if label is not None]
        sets.append(tuple(sorted(set(known))) if len(known) == len(found) else None)
    if foreign:
        kind = "list" if description.label_separator is None else "text"
        hint = ""
        if description.label_separator is None and any(isinstance(one, str) for one in file.columns[column]):
            hint = "; where labels are in one text, say the 'label_separator' that stands between them"
        elif None in file.columns[column]:
            hint = "; a row without labels has an empty list"
        problems.append(f"{file.name}, column {column!r}: no {kind} of labels in {file.listed(foreign)}{hint}")
    _say_undeclared(file, description, column, outside, problems)
    return sets


def labels_in(value: Any, separator: str | None) -> list[Any] | None:
    """The values of the labels that a row has; None where they are no list of plain values, or no text.

    Args:
        separator: What stands between the labels of a text; blanks around a label are dropped. None: they are a list.
    """
    if separator is not None:
        return [part.strip() for part in value.split(separator) if part.strip()] if isinstance(value, str) else None
    if not isinstance(value, list | tuple) or any(isinstance(one, list | tuple | dict) for one in value):
        return None
    return list(value)


def _say_undeclared(
    file: RawFile, description: Description, column: str, outside: dict[str, list[int]], problems: list[str]
) -> None:
    """Say which values of the column are none of the declared labels, and where they stand."""
    labels = description.labels.items()
    declared = ", ".join(f"{canonical(value)} ({name})" for name, group in labels for value in group)
    for text, where in list(outside.items())[:_SHOWN]:
        problems.append(
            f"{file.name}, column {column!r}: {text} is none of the labels {declared}; "
            f"it stands in {file.listed(where)}"
        )
    if len(outside) > _SHOWN:
        problems.append(f"{file.name}: {len(outside) - _SHOWN:,} more values that are none of the labels")


def _values(file: RawFile, description: Description, problems: list[str]) -> list[float | None]:
    """The value of each row; None where it is no number, or outside of the declared range."""
    column = str(description.columns.label)
    least, most = description.label_range or (-math.inf, math.inf)
    values = [number_of(value) for value in file.columns[column]]
    foreign = [number for number, value in zip(file.numbers, values, strict=True) if value is None]
    outside = [
        number
        for number, value in zip(file.numbers, values, strict=True)
        if value is not None and not least <= value <= most
    ]
    if foreign:
        problems.append(f"{file.name}, column {column!r}: no number in {file.listed(foreign)}")
    if outside:
        problems.append(f"{file.name}, column {column!r}: outside of {least:g} to {most:g} in {file.listed(outside)}")
    return [value if value is not None and least <= value <= most else None for value in values]


def number_of(value: Any) -> float | None:
    """The finite number that a value is or spells; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _choices(file: RawFile, description: Description, problems: list[str]) -> list[tuple[str, ...] | None]:
    columns = description.columns
    if isinstance(columns.choices, str):
        rows = _lists(file, columns.choices, problems)
    else:
        texts = zip(*(file.columns[name] for name in columns.choice_columns), strict=True)
        rows = [tuple(row) if all(isinstance(text, str) for text in row) else None for row in texts]
        where = f"{file.name}, columns {', '.join(columns.choice_columns)}"
        foreign = [number for number, row in zip(file.numbers, rows, strict=True) if row is None]
        blank = [number for number, row in zip(file.numbers, rows, strict=True) if any(map(is_blank, row or ()))]
        if foreign:
            problems.append(f"{where}: no text in {file.listed(foreign)}")
        if blank:
            problems.append(
                f"{where}: a blank choice in {file.listed(blank)}; where rows have different numbers of choices, put "
                "them into one column of lists"
            )
    few = [number for number, row in zip(file.numbers, rows, strict=True) if row is not None and len(row) < 2]
    if few:
        problems.append(f"{file.name}: fewer than 2 choices in {file.listed(few)}")
    return rows


def _lists(file: RawFile, column: str, problems: list[str]) -> list[tuple[str, ...] | None]:
    """The texts that each row of a column holds; None where they are no list of texts, or one of them is blank."""
    rows: list[tuple[str, ...] | None] = []
    foreign: list[int] = []
    empty: list[int] = []
    for number, value in zip(file.numbers, file.columns[column], strict=True):
        if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
            foreign.append(number)
            rows.append(None)
        elif not value or any(map(is_blank, value)):
            empty.append(number)
            rows.append(None)
        else:
            rows.append(tuple(value))
    if foreign:
        problems.append(f"{file.name}, column {column!r}: no list of texts in {file.listed(foreign)}")
    if empty:
        problems.append(f"{file.name}, column {column!r}: empty, or with a blank text, in {file.listed(empty)}")
    return rows


def _right_choices(
    file: RawFile,
    description: Description,
    choices: Sequence[tuple[str, ...] | None],
    answers: Sequence[tuple[str, ...] | None],
    problems: list[str],
) -> list[int | None]:
    """The number of the (first) right choice of each row; None where there is no such choice."""
    column = description.columns.label
    given = [None] * len(file.numbers) if column is None else [number_of(value) for value in file.columns[column]]
    labels: list[int | None] = []
    outside: list[int] = []
    for number, value, of_row, right in zip(file.numbers, given, choices, answers, strict=True):
        if column is None:
            found = [at for at, choice in enumerate(of_row or ()) if choice in (right or ())]
        else:
            found = [at for at in range(len(of_row or ())) if at == value]
        if not found and of_row is not None and right is not None:
            outside.append(number)
        labels.append(found[0] if found else None)
    if outside:
        what = "none of the answers is a choice" if column is None else f"column {column!r} is no number of a choice"
        problems.append(f"{file.name}: {what} in {file.listed(outside)}")
    return labels


def _groups(file: RawFile, column: str, problems: list[str]) -> list[str | None]:
    """The name of each row's group; train and test number their groups anew, so that the split is part of the name."""
    values = [None if value is None else canonical(value) for value in file.columns[column]]
    blank = [number for number, value in zip(file.numbers, values, strict=True) if not value]
    if blank:
        problems.append(f"{file.name}, column {column!r}: blank in {file.listed(blank)}")
    return [f"{file.split} {value}" if value else None for value in values]
