"""Datasets in memory: a known one that is loaded, or one made of a user's texts and labels."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from beft.datasets.description import NAME, Description
from beft.datasets.given_rows import check_given_texts, check_names, given_labels, given_list
from beft.datasets.preparation import prepare_source
from beft.datasets.prepared import SPLITS, PreparedData, load_split, load_summary
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.registry import find_dataset
from beft.datasets.spans import spans_in
from beft.errors import InputError
from beft.files import write_text
from beft.settings import Settings, SplitSettings

_FILE = "rows.jsonl"


class Dataset(PreparedData):
    """A dataset in memory, divided into train, dev, gate and test.

    ``beft.load_dataset`` loads a known one, ``Dataset.from_rows`` makes one of texts and labels, and
    ``Dataset.from_folder`` reads what the step ``prepare`` wrote.

    Attributes:
        facts: The content of ``data.json``: name, labels, metric, rows by split, where the rows came from.
        read: Gives the rows of a split.

    Example:
        >>> import beft
        >>> reviews = [f"film {number} is {word}" for number in range(50) for word in ("gripping", "dull")]
        >>> data = beft.Dataset.from_rows(reviews, ["good", "bad"] * 50, test_rows=20, gate_rows=0)
        >>> print(data)
        rows: 64 train, 16 dev, 0 gate, 20 test; accuracy
        >>> data.labels
        ('bad', 'good')
        >>> len(data.rows("test"))
        20
    """

    @classmethod
    def from_rows(
        cls,
        texts: Sequence[str],
        labels: Sequence[str | int | float | bool | Sequence[str | int]],
        *,
        pairs: Sequence[str] | None = None,
        name: str = "rows",
        metric: str | None = None,
        size: int | str = "all",
        test_rows: int | Literal["auto"] = "auto",
        gate_rows: int | Literal["auto"] = "auto",
        draw: int = 0,
        dev_fraction: float = 0.2,
    ) -> Self:
        """Make a dataset of texts and their labels, and divide it.

        Copies of a text never stand in two splits, and every split has each label's share of the rows.

        Args:
            texts: One text a row: a list, or a column of pandas, NumPy or ``datasets``. So are labels and pairs.
            labels: One a row. Texts, whole numbers and truth values are classes; numbers with a fraction (``float``)
                are values to be predicted. A list of texts or whole numbers for each row: it has all of these
                labels, or none (multi-label classification). A list of spans for each row, each with ``start``, ``end``
                and ``label``: the words of the text get tags (token classification).
            pairs: The second text of each row, for a dataset of pairs.
            name: The dataset's name, which the adapter keeps.
            metric: The headline metric; None: accuracy of classes, the micro F1 of several labels a row, the F1 of
                spans, the Pearson correlation of values.
            size: How many rows train and dev share: a number, or ``"all"``.
            test_rows: Rows of test; ``"auto"``: a fifth of all, 1,000 at most.
            gate_rows: Rows of gate, which only a promotion reads; 0: none.
            draw: Which random division is made.
            dev_fraction: The share of dev in the rows that it shares with train.

        Raises:
            InputError: The lengths differ, a text or a label is missing or blank, there is one label only, or there are
                too few rows.

        Example:
            >>> data = Dataset.from_rows([f"film {n}" for n in range(100)], [n / 10 for n in range(100)], name="stars")
            >>> data.metric
            'pearson'
        """
        given = given_list(texts, "texts")
        plain = given_labels(labels)
        several = any(isinstance(label, list) for label in plain)
        spans = several and any(isinstance(one, list | Mapping) for of_row in _lists(plain) for one in of_row)
        role = "spans" if spans else "labels" if several else "label"
        columns: dict[str, Sequence[Any]] = {"text": given, role: plain}
        if pairs is not None:
            columns["text_pair"] = given_list(pairs, "pairs")
        for what, argument in ((role, "labels"), ("text_pair", "pairs")):
            if what in columns and len(columns[what]) != len(given):
                count = len(columns[what])
                raise InputError(
                    f"there are {len(given):,} texts, but not as many {argument} ({count:,}): give one a text"
                )
        check_given_texts(given)
        check_given_texts(columns.get("text_pair", ()), "second text")
        description = _description(name, columns, metric)
        split = _split(test_rows, gate_rows, draw, dev_fraction)
        with tempfile.TemporaryDirectory() as folder:
            rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
            write_text(Path(folder, _FILE), "".join(f"{json.dumps(row)}\n" for row in rows))
            return cls.prepared_from(description, Path(folder), size, split)

    @classmethod
    def prepared_from(cls, description: Description, root: Path, size: int | str, split: SplitSettings) -> Self:
        """Fetch and prepare a described dataset, and keep all of it in memory.

        Args:
            root: The working folder, where the paths of a user's files begin.
            size: How many rows train and dev share: a number or a regime of the dataset.

        Raises:
            DatasetError: The source cannot be reached, or is not what the description says.
        """
        with tempfile.TemporaryDirectory() as folder:
            raw, prepared = Path(folder, "raw"), Path(folder, "prepared")
            raw.mkdir()
            prepared.mkdir()
            fetch_source(description, raw, root)
            prepare_source(raw, prepared, size=size, settings=split)
            return cls(load_summary(prepared), {name: load_split(prepared, name) for name in SPLITS}.__getitem__)


def load_dataset(
    name: str,
    *,
    size: int | str = "auto",
    test_rows: int | Literal["auto"] = "auto",
    gate_rows: int | Literal["auto"] = "auto",
    draw: int = 0,
    dev_fraction: float = 0.2,
    root: Path | str | None = None,
) -> Dataset:
    """Load a known dataset, and divide it into train, dev, gate and test.

    Args:
        name: An embedded dataset (``beft datasets ls`` lists them), or one described in ``data/datasets/NAME.yaml`` of
            the working folder.
        size: How many rows train and dev share: a number, or ``"low"``, ``"medium"``, ``"high"``, ``"all"``;
            ``"auto"``: low where the dataset has it, else all.
        test_rows: Rows of test, for a dataset without a test split of its own.
        gate_rows: Rows of gate, which only a promotion reads; 0: none.
        draw: Which random division is made.
        dev_fraction: The share of dev in the rows that it shares with train.
        root: The working folder; None: the current one.

    Raises:
        InputError: The name is unknown; the message has the nearest known one.
        DatasetError: The source cannot be reached, or is not what its description says.

    Example:
        >>> import beft
        >>> data = beft.load_dataset("rotten_tomatoes", size=100)
        >>> print(data)
        rotten_tomatoes: 80 train, 20 dev, 1,000 gate, 1,000 test; accuracy
    """
    folder = Path.cwd() if root is None else Path(root)
    split = _split(test_rows, gate_rows, draw, dev_fraction)
    return Dataset.prepared_from(find_dataset(name, folder), folder, size, split)


def _split(test_rows: int | str, gate_rows: int | str, draw: int, dev_fraction: float) -> SplitSettings:
    values = {"test_rows": test_rows, "gate_rows": gate_rows, "draw": draw, "dev_fraction": dev_fraction}
    return Settings.from_mapping({"split": values}).split


def _description(name: str, columns: Mapping[str, Sequence[Any]], metric: str | None) -> Description:
    if not NAME.fullmatch(name):
        raise InputError(f"a dataset cannot be called {name!r}: lower-case letters, digits, - and _ only")
    several = "labels" in columns
    if "spans" in columns:
        columns = {**columns, "label": [span[-1] for of_row in columns["spans"] for span in spans_in(of_row) or ()]}
    labels = [one for of_row in _lists(columns["labels"]) for one in of_row] if several else columns["label"]
    values: dict[str, Any] = {
        "name": name,
        "title": "rows from memory",
        "version": 1,
        "source": {"kind": "files", "train": [_FILE]},
        "columns": {column: column for column in columns if column != "label" or "spans" not in columns},
    }
    if "spans" in columns:
        values["shape"] = "token_classification"
    if several:
        if any(isinstance(label, float | list) for label in labels):
            raise InputError("the labels of a row must be texts or whole numbers")
        values["shape"] = "multi_label"
    if not several and "spans" not in columns and any(isinstance(label, float) for label in labels):
        values["shape"] = "regression"
    else:
        check_names(labels)
        values["labels"] = {str(label): [label] for label in sorted(set(labels), key=lambda one: (str(type(one)), one))}
    return Description.from_mapping(values | ({} if metric is None else {"metric": metric}), name)


def _lists(sets: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Several labels for each row.

    Raises:
        InputError: A row has something else.
    """
    for row, of_row in enumerate(sets):
        if not isinstance(of_row, list):
            raise InputError(f"row {row} has {of_row!r} for its labels, others a list: give each row a list")
    return sets
