"""What is expected of the data, read from ``data/expectations``.

A file there is a list of lines, each an expectation with its arguments. Here every line is written out: once for each
column and split that it names, with the facts of the dataset in the place of values that begin with ``$``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from beft.datasets.description import DatasetError
from beft.datasets.prepared import SPLITS
from beft.errors import InputError
from beft.files import is_unicode, sha256_file
from beft.names import known_name
from beft.settings import NO_UNICODE
from beft.yaml_text import parse_yaml
from tasks.project_files import project_file

if TYPE_CHECKING:
    import pandas as pd

JSON = Any
Stage = Literal["raw", "prepared"]
EMBEDDED = project_file("data/expectations")
OWN = Path("data", "expectations")
ROLES = (
    "id",
    "text",
    "text_pair",
    "label",
    "labels",
    "undeclared_labels",
    "spans",
    "wrong_spans",
    "category",
    "label_name",
    "number",
    "right_choice",
    "choices",
    "answers",
    "group",
    "choices_count",
    "choices_behind",
    "right_choices",
    "answers_count",
    "shortest_answer",
    "splits_with_text",
    "copies_in_split",
    "splits_with_group",
)
SPLIT, FILE, LINE, ROW = "(split)", "(file)", "(line)", "(row)"
"""Columns of a frame that say where a row stands; in brackets, so that they meet no column of the data.

A row has the line of the file that it begins in, or its number where the file has no lines.
"""

ANY_NUMBER = (-sys.float_info.max, sys.float_info.max)
"""The range of a regression that declares none."""


@dataclass(frozen=True)
class Subject:
    """The data that something is expected of.

    Attributes:
        frame: The rows, with the column ``SPLIT`` and those of ``places``.
        roles: The column that plays each part (one of ``ROLES``); a part that the dataset lacks is missing.
        facts: What ``$NAME`` stands for; for a split, those of the split before those of ``None``.
        splits: The splits that the data has.
        together: Whether a line that names no split is about all rows together; otherwise it is about each split.
        places: The columns that say where an offending row stands.
        advice: Finds out what to do about a failure: expectation, column, arguments, and what was observed.
    """

    dataset: str
    frame: "pd.DataFrame"
    roles: Mapping[str, str]
    facts: Mapping[str | None, Mapping[str, JSON]]
    splits: Sequence[str]
    together: bool
    places: Sequence[str]
    advice: Callable[[Mapping[str, JSON]], str | None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Expectation:
    """One expectation: about one column or the whole table, of one split or of all rows together."""

    name: str
    column: str | None
    split: str | None
    arguments: dict[str, JSON] = field(hash=False)

    @property
    def place(self) -> tuple[str, str | None, str | None]:
        """What a dataset's own expectation must share with a general one to replace it."""
        return self.name, self.column, self.split


def as_texts(value: JSON) -> list[str]:
    """The texts of a list; none where it is something else."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list | tuple) else []


def expectation_files(stage: Stage, dataset: str, root: Path) -> list[Path]:
    """The general file, and the dataset's own where there is one.

    Args:
        root: The workspace's folder, whose ``data/expectations`` win over those that come with the project.
    """
    general, own = (
        next((path for folder in (root / OWN, EMBEDDED) for path in _called(folder, name)), None)
        for name in (stage, dataset)
    )
    if general is None:
        raise InputError(f"there is no file {root / OWN / stage}.yaml, which says what is expected of {stage} data")
    return [general] if own is None else [general, own]


def _called(folder: Path, name: str) -> list[Path]:
    """The file of expectations of that name, if there is one.

    Raises:
        InputError: There are two of them, as NAME.yaml and NAME.yml.
    """
    found = [path for path in (folder / f"{name}.yaml", folder / f"{name}.yml") if path.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are about the same data: remove one of them")
    return found


def watched_files(stage: Stage, dataset: str, root: Path) -> dict[str, str]:
    """What a check depends on beside its input and its source: name to sha256."""
    return {f"expectations/{path.name}": sha256_file(path) for path in expectation_files(stage, dataset, root)}


def expectations_of(stage: Stage, subject: Subject, root: Path) -> list[Expectation]:
    """Everything that is expected of a dataset at a stage, written out.

    Raises:
        DatasetError: Lines of the files are wrong; all of them at once.
    """
    found: list[Expectation] = []
    problems: list[str] = []
    for path in expectation_files(stage, subject.dataset, root):
        of_file: list[Expectation] = []
        for number, line in enumerate(_lines(path, stage), 1):
            try:
                of_file += _written_out(line, subject, own=path.stem != stage)
            except InputError as error:
                problems.append(f"{path}, expectation {number} of {stage}: {error}")
        replaced = {expectation.place for expectation in of_file}
        found = [expectation for expectation in found if expectation.place not in replaced] + of_file
    if problems:
        raise DatasetError(subject.dataset, problems)
    return found


def _lines(path: Path, stage: Stage) -> list[JSON]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not is_unicode(content):
        raise InputError(f"{path}: {NO_UNICODE}")
    if path.stem != stage:
        if not isinstance(content, dict) or not set(content) <= {"raw", "prepared"}:
            raise InputError(f"{path} must be a mapping: lists under raw, under prepared, or both")
        content = content.get(stage, [])
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a list of expectations")
    return content


def _written_out(line: JSON, subject: Subject, *, own: bool) -> list[Expectation]:
    """The expectations that a line stands for.

    Args:
        own: Whether the line is about this dataset alone, whose columns it must know.

    Raises:
        InputError: The line is wrong.
    """
    if not isinstance(line, dict) or not isinstance(line.get("expectation"), str):
        raise InputError("it must be a mapping with the name of an 'expectation'")
    arguments = dict(line)
    name = str(arguments.pop("expectation"))
    splits = _names("splits", arguments)
    for split in splits or ():
        known_name(split, SPLITS, "split")
    columns = _names("columns", arguments)
    if own and name != "expect_column_to_exist":
        _require_columns(columns or [], subject)
    there: Sequence[str | None] = [None]
    if columns is not None:
        there = [column for one in columns if (column := _column(one, subject, own=own)) is not None]
    of_splits: Sequence[str | None] = [None] if subject.together else subject.splits
    return [
        Expectation(name, column, split, {key: _value(value, split, subject) for key, value in arguments.items()})
        for column in there
        for split in (of_splits if splits is None else splits)
        if split is None or split in subject.splits
    ]


def _names(key: str, arguments: dict[str, JSON]) -> list[str] | None:
    """Take a list of names out of the arguments; None where there is none."""
    value = arguments.pop(key, None)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise InputError(f"{key!r} must be a list of names, not {value!r}")
    return value


def _require_columns(columns: Sequence[str], subject: Subject) -> None:
    """Refuse a name that is neither a column of the data nor a part that one can play."""
    there = [name for name in subject.frame.columns if not name.startswith("(")]  # the others are counted here
    for name in columns:
        if name not in (*ROLES, *subject.roles.values()):
            known_name(name, [*there, *(role for role in subject.roles if role not in there)], "column")


def _column(name: str, subject: Subject, *, own: bool) -> str | None:
    """The column that a name stands for; None where it is a part that the dataset lacks.

    A line about this dataset alone can mean a column that nothing plays and that is called as a part is.
    """
    if name in subject.roles or name not in ROLES:
        return subject.roles.get(name, name)
    return name if own and name in subject.frame.columns else None


def _value(value: JSON, split: str | None, subject: Subject) -> JSON:
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    facts = {**subject.facts.get(None, {}), **subject.facts.get(split, {})}
    return facts[known_name(value[1:], facts, "fact")]
