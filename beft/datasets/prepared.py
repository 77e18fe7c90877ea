"""Prepared data on disk: a Parquet file for each split, with the columns id, text, text_pair, label; ``data.json``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from beft.datasets.parquet import read_table, write_table
from beft.errors import InputError
from beft.files import read_json
from beft.names import known_name

Split = Literal["train", "dev", "gate", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
SUMMARY = "data.json"
SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("text_pair", pa.string()), ("label", pa.int32())],
)


@dataclass(frozen=True)
class Rows:
    """Labelled texts.

    Attributes:
        ids: One a row, unique in the dataset, made of a hash of the text.
        pairs: The second text of each row; None for a dataset of single texts.
        labels: The number of each row's label.
        choices: The choices of each row, where rows have choices.
        answers: The right answers of each row, where there are such texts.
        groups: What each row belongs to, where rows belong together.
    """

    ids: list[str]
    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]
    choices: list[list[str]] | None = None
    answers: list[list[str]] | None = None
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def save_split(folder: Path, split: str, rows: Rows) -> None:
    """Write ``SPLIT.parquet``."""
    pairs = rows.pairs if rows.pairs is not None else [None] * len(rows)
    write_table(folder / f"{split}.parquet", pa.table([rows.ids, rows.texts, pairs, rows.labels], schema=SCHEMA))


def load_split(folder: Path, split: str) -> Rows:
    """Read one split of prepared data.

    Raises:
        InputError: There is no such split, or its file is no Parquet file of this schema.
    """
    path = folder / f"{known_name(split, SPLITS, 'split')}.parquet"
    table = read_table(path)
    if table.schema.remove_metadata() != SCHEMA:
        raise InputError(f"{path} is not a split that 'prepare' wrote: its columns are {', '.join(table.column_names)}")
    columns = table.to_pydict()
    single = table["text_pair"].null_count == len(table)
    return Rows(columns["id"], columns["text"], None if single else columns["text_pair"], columns["label"])


def load_summary(folder: Path) -> dict[str, Any]:
    """Read ``data.json``, which says what the splits are and where they came from.

    Raises:
        InputError: The folder holds no prepared data.
    """
    try:
        summary = read_json(folder / SUMMARY)
    except (OSError, ValueError):
        raise InputError(f"{folder} holds no prepared data: there is no valid {SUMMARY} in it") from None
    if not isinstance(summary, dict) or "dataset" not in summary:
        raise InputError(f"{folder / SUMMARY} is not what 'prepare' wrote")
    return summary
