"""Prepared data on disk: a Parquet file for each split, and ``data.json``.

Every split has the columns id, text and text_pair; beside them those of its problem type: label, labels or spans,
choices, answers, group; and ``keep.NAME`` of each column that its description keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import pyarrow as pa

from beft.datasets.reading.parquet import read_table, write_table
from beft.errors import InputError
from beft.files import read_json
from beft.names import known_name

Split = Literal["train", "dev", "gate", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
SUMMARY = "data.json"
_TEXTS = pa.list_(pa.string())
_TYPES: dict[str, tuple[pa.DataType, ...]] = {
    "id": (pa.string(),),
    "text": (pa.string(),),
    "text_pair": (pa.string(),),
    "label": (pa.int32(), pa.float64()),
    "labels": (pa.list_(pa.int32()),),
    "spans": (pa.list_(pa.list_(pa.int32())),),
    "choices": (_TEXTS,),
    "answers": (_TEXTS,),
    "group": (pa.string(),),
}
_ALWAYS = ("id", "text", "text_pair")
_KEPT = "keep."


@dataclass(frozen=True)
class Rows:
    """Labelled texts.

    Attributes:
        ids: One a row, unique in the dataset, made of a hash of the text.
        pairs: The second text of each row; None for a dataset of single texts.
        labels: Classification: the number of each row's label. Multi-label: the numbers of the labels that a row has, a
            list each, in their order. Regression: its value. Multiple choice: the number of
            the (first) right choice. Empty for generation and token classification.
        choices: Of multiple choice: the choices of each row.
        answers: Of generation, and of multiple choice with several right choices: the right answers of each row.
        groups: The group of each row, where rows belong together.
        kept: Further columns of the source that its description keeps, by name; as texts.
        spans: Of token classification: start, end and number of the label of each span of each row, in order.
    """

    ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float] | list[list[int]]
    choices: list[list[str]] | None = None
    answers: list[list[str]] | None = None
    groups: list[str] | None = None
    kept: dict[str, list[str]] = field(default_factory=dict)
    spans: list[list[list[int]]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, places: Sequence[int]) -> "Rows":
        """The rows at some places, in that order."""
        chosen: dict[str, Any] = {
            one.name: values and [values[place] for place in places]
            for one in fields(self)
            if one.name != "kept" and (values := getattr(self, one.name)) is not None
        }
        kept = {name: [values[place] for place in places] for name, values in self.kept.items()}
        return replace(self, **chosen, kept=kept)


def save_split(folder: Path, split: str, rows: Rows) -> None:
    """Write ``SPLIT.parquet``, with the columns that the rows have."""
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    columns: dict[str, Any] = {"id": rows.ids, "text": rows.texts, "text_pair": pairs}
    if rows.labels:
        columns["labels" if isinstance(rows.labels[0], list) else "label"] = rows.labels
    columns |= {
        name: values
        for name, values in (
            ("spans", rows.spans),
            ("choices", rows.choices),
            ("answers", rows.answers),
            ("group", rows.groups),
        )
        if values is not None
    }
    values = any(isinstance(label, float) for label in rows.labels)
    types = {name: _TYPES[name][-1 if name == "label" and values else 0] for name in columns}
    columns |= {f"{_KEPT}{name}": of_rows for name, of_rows in rows.kept.items()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    write_table(folder / f"{split}.parquet", pa.table(list(columns.values()), schema=schema))


def load_split(folder: Path, split: str) -> Rows:
    """Read one split of prepared data.

    Raises:
        InputError: There is no such split, or its file is no Parquet file of this schema.
    """
    path = folder / f"{known_name(split, SPLITS, 'split')}.parquet"
    table = read_table(path)
    known = [name for name in _TYPES if name in _ALWAYS or name in table.column_names]
    kept = [name for name in table.column_names if name.startswith(_KEPT)]
    types = {**_TYPES, **dict.fromkeys(kept, (pa.string(),))}
    known += kept
    if table.column_names != known or not all(_is_one_of(table[name].type, types[name]) for name in known):
        raise InputError(f"{path} is not a split that 'prepare' wrote: its columns are {', '.join(table.column_names)}")
    columns = table.to_pydict()
    single = table["text_pair"].null_count == len(table)
    return Rows(
        columns["id"],
        columns["text"],
        None if single else columns["text_pair"],
        columns.get("labels", columns.get("label", [])),
        columns.get("choices"),
        columns.get("answers"),
        columns.get("group"),
        {name.removeprefix(_KEPT): columns[name] for name in kept},
        columns.get("spans"),
    )


def _is_one_of(found: pa.DataType, known: tuple[pa.DataType, ...]) -> bool:
    """Whether a column's type is one of those known; what the items of a list are called does not matter."""
    return found in known or any(
        pa.types.is_list(found) and pa.types.is_list(one) and _is_one_of(found.value_type, (one.value_type,))
        for one in known
    )


def load_summary(folder: Path) -> dict[str, Any]:
    """Read ``data.json``, which says what the splits are and where they came from.

    What is said only where it is not the usual is there always: ``shape`` (else classification), ``metrics`` (else the
    metric alone), ``prompt`` (else None).

    Raises:
        InputError: The folder holds no prepared data.
    """
    try:
        summary = read_json(folder / SUMMARY)
    except (OSError, ValueError):
        raise InputError(f"{folder} holds no prepared data: there is no valid {SUMMARY} in it") from None
    if not isinstance(summary, dict) or "dataset" not in summary:
        raise InputError(f"{folder / SUMMARY} is not what 'prepare' wrote")
    usual = {"shape": "classification", "metrics": [summary.get("metric")], "prompt": None}
    return {**usual, **summary}


@dataclass(frozen=True, eq=False, repr=False)
class PreparedData:
    """The train, dev, gate and test rows of one dataset, and what is known of them.

    Attributes:
        facts: The content of ``data.json``: name, labels, metric, rows by split, where the rows came from.
        read: Gives the rows of a split.
    """

    facts: Mapping[str, Any]
    read: Callable[[str], Rows]

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.facts["dataset"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers; empty where the rows have none."""
        return tuple(self.facts["labels"])

    @property
    def metric(self) -> str:
        """The headline metric, which chooses epochs and learning rates on dev."""
        return str(self.facts["metric"])

    def rows(self, split: str) -> Rows:
        """The rows of ``train``, ``dev``, ``gate`` or ``test``.

        Raises:
            InputError: There is no such split.
        """
        return self.read(known_name(split, SPLITS, "split"))

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.facts['rows'][split]:,} {split}" for split in SPLITS)
        return f"{self.name}: {counts}; {self.metric}"

    @classmethod
    def from_folder(cls, folder: Path | str) -> Self:
        """Read a folder of prepared data; a split is read each time that it is needed.

        Raises:
            InputError: The folder holds no prepared data.
        """
        folder = Path(folder)
        return cls(load_summary(folder), partial(load_split, folder))
