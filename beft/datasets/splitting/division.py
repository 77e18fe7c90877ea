"""Divide the checked rows of a dataset; where that fails, find out by trying which change of the settings helps."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from beft.datasets.description import DatasetError, Description
from beft.datasets.prepared import SPLITS
from beft.datasets.splitting.splits import LEAST_ROWS_FOR_GATE, MOST_AUTO_ROWS, Splits, TooFewRows, split_rows
from beft.datasets.splitting.strata import deciles
from beft.settings import SplitSettings

_SHOWN, _TRIED_LABELS = 5, 3
_LEAST_ROWS = 20
"""Of test, and of a gate that there is."""
_ROWS_TRIED, _LEAST_TRIALS = 250_000, 6
"""How many rows all trials together divide, which takes some seconds; and how many trials there are of larger data."""
_Number = Literal["size", "dev_fraction", "gate_rows", "test_rows"]
_NUMBERS: tuple[_Number, ...] = ("size", "dev_fraction", "gate_rows", "test_rows")
_LARGER = {"train": "size", "dev": "dev_fraction", "gate": "gate_rows", "test": "test_rows"}
"""The setting that makes each split larger."""
_FACTORS, _SMALLER = (1.25, 1.5, 2, 3, 5, 8), (0.5, 0.25, 0.1)


@dataclass(frozen=True)
class Divisible:
    """What the rows are divided by: a value a row.

    Attributes:
        keys: The key of its text.
        labels: The number of its label or of the right choice, the numbers of its labels in their order (a tuple), or
            its value; 0 where the problem type has none.
        own_test: Whether it is of the dataset's own evaluation split.
        groups: The name of its group; None where no rows belong together.
    """

    keys: Sequence[str]
    labels: Sequence[Any]
    own_test: Sequence[bool]
    groups: Sequence[str] | None = None

    def select(self, places: Sequence[int]) -> "Divisible":
        """Some of the rows."""
        groups = self.groups
        return Divisible(
            [self.keys[at] for at in places],
            [self.labels[at] for at in places],
            [self.own_test[at] for at in places],
            None if groups is None else [groups[at] for at in places],
        )


@dataclass(frozen=True)
class _Requested:
    """How the rows are to be divided; ``size`` None: all that are left."""

    size: int | None
    split: SplitSettings

    def change(self, changes: dict[_Number, Any]) -> "_Requested":
        split: dict[str, Any] = {name: value for name, value in changes.items() if name != "size"}
        return _Requested(changes.get("size", self.size), self.split.model_copy(update=split))


class _Unfit(ValueError):
    """The rows cannot be divided so.

    Args:
        problems: The split that is not as it must be (None: there are too few rows), a sentence, and the numbers of the
            labels that the split lacks.
    """

    def __init__(self, problems: Sequence[tuple[str | None, str, Sequence[int]]]) -> None:
        super().__init__("; ".join(sentence for _, sentence, _ in problems))
        self.sentences = [sentence for _, sentence, _ in problems]
        self.splits = {split for split, _, _ in problems if split is not None}
        self.absent = {split: list(absent) for split, _, absent in problems if absent}


def divide(description: Description, rows: Divisible, *, size: int | None, settings: SplitSettings) -> Splits:
    """Divide the rows into splits of which each shows at least two labels, and train all.

    Raises:
        DatasetError: It cannot be done; the message names the settings with which it can, or what the data lacks.
    """
    requested = _Requested(size, settings)
    try:
        return _divided(description, rows, requested)
    except _Unfit as error:
        advice = _advice(description, rows, requested, error)
        raise DatasetError(description.name, [*error.sentences[:-1], f"{error.sentences[-1]}: {advice}"]) from None


def numbers_of(label: Any) -> tuple[Any, ...]:
    """The numbers of a row's labels, of which it can have several or none; else its one label or value."""
    return label if isinstance(label, tuple) else (label,)


def strata_of(description: Description, labels: Sequence[Any]) -> list[int]:
    """What is held in proportion: labels, the tenths of a regression; of the other shapes nothing.

    A row with several labels, or spans of several, is in the stratum of its rarest one: rare labels are the ones that
    chance would divide unevenly, and are looked at first in iterative stratification too (Sechidis et al. 2011). Rows
    without labels are a stratum of their own.
    """
    if description.shape in ("multi_label", "token_classification"):
        counts = Counter(number for of_row in labels for number in of_row)
        return [min(of_row, key=lambda number: (counts[number], number), default=-1) for of_row in labels]
    if description.shape == "classification":
        return [int(label) for label in labels]
    return deciles(labels) if description.shape == "regression" else [0] * len(labels)


def _divided(description: Description, rows: Divisible, requested: _Requested) -> Splits:
    try:
        splits = split_rows(
            rows.keys,
            rows.labels,
            rows.own_test,
            size=requested.size,
            settings=requested.split,
            strata=strata_of(description, rows.labels),
            groups=rows.groups,
            most_test_rows=description.test_rows,
            most_gate_rows=description.gate_rows,
        )
    except TooFewRows as error:
        raise _Unfit([(error.split, str(error), ())]) from None
    problems = list(_without_differences(description, rows, splits))
    if problems:
        raise _Unfit(problems)
    return splits


def _without_differences(
    description: Description, rows: Divisible, splits: Splits
) -> Iterator[tuple[str, str, Sequence[int]]]:
    """Each split that does not show two labels, train all of them; or two values of a regression."""
    names = list(description.labels)
    in_all = Counter(number for label in rows.labels for number in numbers_of(label))
    for split in SPLITS:
        places = getattr(splits, split)
        if split == "gate" and not splits.requested.gate_rows:
            continue
        found = {number for at in places for number in numbers_of(rows.labels[at])}
        if not places:
            yield split, f"{split} is empty", ()
        elif description.shape == "regression" and len(found) < 2:
            yield split, f"{split} ({len(places):,} rows) has but one value", ()
        elif len(found) < (len(names) if split == "train" else min(2, len(names))):
            absent = [number for number in range(len(names)) if number not in found]
            shown = ", ".join(f"{names[number]!r} ({in_all[number]:,} in all)" for number in absent[:_SHOWN])
            others = f" and {len(absent) - _SHOWN:,} others" if len(absent) > _SHOWN else ""
            yield split, f"{split} ({len(places):,} rows) has no row with the label {shown}{others}", absent


def _advice(description: Description, rows: Divisible, requested: _Requested, error: _Unfit) -> str:
    """What helps, each tried before it is said: other settings, a source without its test data, or further rows."""
    used = {number for label in rows.labels for number in numbers_of(label)}
    unused = [name for number, name in enumerate(description.labels) if number not in used]
    if unused:
        return (
            f"no row has the label {', '.join(map(repr, unused[:_SHOWN]))}: take it out of labels, or bring such rows"
        )
    trials = _Trials(description, max(_ROWS_TRIED, _LEAST_TRIALS * len(rows.keys)))
    for changes in _changes(rows, requested, error):
        if trials.left < trials.rows // 2:
            break  # the rest is for further rows
        if trials.works(rows, requested.change(changes)):
            return f"set {' and '.join(_said(description, name, value) for name, value in changes.items())}"
    own = [at for at, own in enumerate(rows.own_test) if not own]
    if len(own) < len(rows.keys) and trials.works(rows.select(own), replace(requested, size=None)):
        return (
            f"bring other rows, or leave 'test' out of its source (then test is taken from its train data) and set "
            f"{_said(description, 'size', None)}"
        )
    return _further_rows(trials, rows, requested, error)


class _Trials:
    """Tries whether rows can be divided, until so many rows have been.

    Attributes:
        left: How many rows are left of those that may be.
    """

    def __init__(self, description: Description, rows: int) -> None:
        self.description, self.rows, self.left = description, rows, rows

    def works(self, rows: Divisible, requested: _Requested) -> bool:
        """Whether the rows can be divided so; False, too, when no trial is left."""
        if self.left <= 0:
            return False
        self.left -= len(rows.keys)
        try:
            _divided(self.description, rows, requested)
        except _Unfit:
            return False
        return True


def _changes(rows: Divisible, requested: _Requested, error: _Unfit) -> Iterator[dict[_Number, Any]]:
    """Changes of the settings: few before many, those of the splits that failed before others."""
    first = {_LARGER[split] for split in error.splits} or {"size", "gate_rows", "test_rows"}
    smaller = {name: [(value,) for value in _smaller(name, requested, len(rows.keys))] for name in _NUMBERS}
    options = {name: [None, *_options(name, requested, len(rows.keys)), *smaller[name]] for name in _NUMBERS}
    ways = itertools.product(*(range(len(options[name])) for name in _NUMBERS))

    def effort(way: tuple[int, ...]) -> tuple[int, ...]:
        changed = [name for name, at in zip(_NUMBERS, way, strict=True) if at]
        less = sum(options[name][at] in smaller[name] for name, at in zip(_NUMBERS, way, strict=True))
        return len(changed), sum(name not in first for name in changed), less, *way

    for way in sorted((way for way in ways if any(way)), key=effort):
        yield {name: options[name][at][0] for name, at in zip(_NUMBERS, way, strict=True) if at}  # type: ignore[index]


def _options(name: _Number, requested: _Requested, rows: int) -> list[tuple[Any]]:
    """Other values of a setting, in the order in which they are tried; each in a tuple, since None is a value too."""
    now: Any = requested.size if name == "size" else getattr(requested.split, name)
    if name == "dev_fraction":
        return [(fraction,) for fraction in (0.25, 0.3, 0.4, 0.5) if fraction > now]
    least = 2 if name == "size" else _LEAST_ROWS
    found: list[tuple[Any]] = []
    if name == "size":
        if now is None:
            return []
        found = [(None,)]
    elif now != "auto" and (name != "gate_rows" or rows >= LEAST_ROWS_FOR_GATE):
        found = [("auto",)]
    base = rows // 5 if now == "auto" else max(now, least)
    larger = [round(base * factor) for factor in _FACTORS]
    found = [(value,) for value in larger if least <= value <= rows // 2] + found
    return [*found, (0,)] if name == "gate_rows" and now != 0 else found


def _smaller(name: _Number, requested: _Requested, rows: int) -> list[int]:
    """Fewer rows of test or gate, which leave more groups for the other splits."""
    if name not in ("gate_rows", "test_rows"):
        return []
    now = getattr(requested.split, name)
    base = min(MOST_AUTO_ROWS, rows // 5) if now == "auto" else min(now, rows)
    return [value for value in (round(base * factor) for factor in _SMALLER) if value >= _LEAST_ROWS]


def _said(description: Description, name: _Number, value: Any) -> str:
    """A setting as a user writes it."""
    if name == "size":
        return f"datasets.{description.name}.size to {'all' if value is None else value}"
    note = " (no gate: a version stays a challenger)" if name == "gate_rows" and value == 0 else ""
    return f"split.{name} to {value}{note}"


def _further_rows(trials: _Trials, rows: Divisible, requested: _Requested, error: _Unfit) -> str:
    """How many rows of which label help, with other texts than those that are there."""
    copies = len(rows.keys) - len(set(rows.keys))
    cause = f" ({copies:,} of the {len(rows.keys):,} rows are copies of a text)" if copies else ""
    names = list(trials.description.labels)
    counts = Counter(number for label in rows.labels for number in numbers_of(label))
    # Train needs all labels, each of the others any two.
    absent = error.absent.get("train") or list(itertools.chain(*error.absent.values()))
    few = sorted(set(absent), key=lambda number: (counts[number], number))[:_TRIED_LABELS]
    few = [] if len(error.absent.get("train", ())) > 1 else few
    for more in (1, 2, 3, 5, 10, 20):
        for number in few:
            if trials.works(_with_rows(rows, [number] * more), requested):
                return f"bring {more} more rows with the label {names[number]!r}{cause}"
    for more in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000):
        labels = [range(len(names))[at % len(names)] if names else at for at in range(more)]
        if trials.works(_with_rows(rows, labels), requested):
            each = f", {-(-more // len(names)):,} of each label" if names else ""
            alone = ", each in a group of its own" if rows.groups is not None else ""
            return f"bring {more:,} more rows with other texts{each}{alone}{cause}"
    return f"bring more rows with other texts{cause}"


def _with_rows(rows: Divisible, labels: Sequence[int]) -> Divisible:
    """The rows and some more, each with a text and a group of its own."""
    new = [f"further row {at}" for at in range(len(labels))]
    several = any(isinstance(label, tuple) for label in rows.labels)
    return Divisible(
        [*rows.keys, *new],
        [*rows.labels, *((number,) if several else number for number in labels)],
        [*rows.own_test, *[False] * len(new)],
        None if rows.groups is None else [*rows.groups, *new],
    )
