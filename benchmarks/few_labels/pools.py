"""Rows to draw from and test rows, of public data sets, and balanced draws of them."""

import csv
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beft.datasets.prepared import Rows, load_split, load_summary
from beft.datasets.reading.local import VARIABLE, data_folder
from beft.errors import InputError
from beft.settings import SplitSettings
from beft.training.sample import joined
from benchmarks.common.glue import GLUE, glue_data
from benchmarks.common.prepared import prepared_data

_POOL_ROWS = 5000
_POOL_ROWS_OF = {"rte": 2400}  # it has 2,490 rows in train
_TEST_ROWS = 1000


@dataclass(frozen=True)
class Pool:
    """The rows of a data set.

    Attributes:
        train: What samples are drawn from.
        test: What is predicted: all test rows where they are 1,000 or fewer, else 1,000 that are always the same.
        labels: Their names.
    """

    name: str
    train: Rows
    test: Rows
    labels: tuple[str, ...]

    def draw(self, rows_of_label: int, number: int) -> Rows:
        """So many rows of each label, in a random order; each number is another draw."""
        random = np.random.Generator(np.random.PCG64([number, rows_of_label]))
        labels = np.array(self.train.labels)
        kept = [
            random.choice(np.flatnonzero(labels == label), rows_of_label, replace=False)
            for label in range(len(self.labels))
        ]
        return self.train.select(random.permutation(np.concatenate(kept)).tolist())

    def without(self, rows: Rows, most: int) -> Rows:
        """Rows of train that a draw lacks: what a recipe may be chosen on."""
        drawn = set(rows.ids)
        left = [at for at, name in enumerate(self.train.ids) if name not in drawn]
        return self.train.select(np.random.Generator(np.random.PCG64(0)).permutation(left)[:most].tolist())


@contextmanager
def open_pool(name: str) -> Iterator[Pool]:
    """Read a data set: ``rotten_tomatoes`` from its package, the others from the folder that BEFT_DATA_DIR names.

    Raises:
        InputError: Its files are not there.
    """
    if name in _READERS:
        yield _READERS[name]()
        return
    split = SplitSettings(gate_rows=20)
    rows = _POOL_ROWS_OF.get(name, _POOL_ROWS)
    opened = glue_data(name, rows) if name in GLUE else prepared_data(name, rows, split)
    with opened as prepared:
        train = joined(load_split(prepared, "train"), load_split(prepared, "dev"))
        yield Pool(name, train, _bounded(load_split(prepared, "test")), tuple(load_summary(prepared)["labels"]))


def _trec() -> Pool:
    """TREC's six coarse labels, as its authors divided the questions (Li and Roth, 2002)."""

    def read(path: Path) -> list[tuple[str, str]]:
        lines = path.read_text(encoding="latin-1").splitlines()
        return [(label.partition(":")[0], text) for label, _, text in (line.partition(" ") for line in lines) if text]

    train, test = (read(path) for path in _files("TREC", "train_5500.label", "TREC_10.label"))
    return _pool("trec", train, test)


def _banking77() -> Pool:
    """The 77 intents of Casanueva et al. (2020), as they divided the questions of a bank's customers."""

    def read(path: Path) -> list[tuple[str, str]]:
        with path.open(encoding="utf-8", newline="") as file:
            return [(row["category"], row["text"]) for row in csv.DictReader(file)]

    train, test = (read(path) for path in _files("Banking77", "train.csv", "test.csv"))
    return _pool("banking77", train, test)


_READERS = {"trec": _trec, "banking77": _banking77}


def _files(folder: str, *names: str) -> list[Path]:
    """The files of a data set.

    Raises:
        InputError: One is not there.
    """
    found = [(data_folder() or Path("nowhere")) / folder / name for name in names]
    if not all(path.is_file() for path in found):
        raise InputError(f"{VARIABLE} names no folder with {' and '.join(f'{folder}/{name}' for name in names)}")
    return found


def _pool(name: str, train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]) -> Pool:
    """A pool of rows as (label, text): no text twice, and none of test in train."""
    labels = sorted({label for label, _ in train})

    def distinct(part: str, rows: Sequence[tuple[str, str]], left_out: Collection[str] = ()) -> Rows:
        texts: dict[str, int] = {}
        for label, text in rows:
            if text not in left_out:
                texts.setdefault(text, labels.index(label))
        return Rows([f"{part}-{at}" for at in range(len(texts))], list(texts), None, list(texts.values()))

    seen = {text for _, text in test}
    return Pool(name, distinct("train", train, seen), _bounded(distinct("test", test)), tuple(labels))


def _bounded(test: Rows) -> Rows:
    """At most 1,000 rows, always the same ones: each training predicts them all."""
    if len(test) <= _TEST_ROWS:
        return test
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(test))[:_TEST_ROWS]
    return test.select(sorted(chosen.tolist()))
