"""Rows to draw from and test rows, of public data sets, and balanced draws of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beft.datasets.prepared import Rows, load_split, load_summary
from beft.datasets.reading.local import VARIABLE, data_folder
from beft.errors import InputError
from beft.settings import SplitSettings
from beft.training.sample import joined
from benchmarks.common.glue import glue_data
from benchmarks.common.prepared import prepared_data

POOLS = ("sst2", "rotten_tomatoes", "trec")

_POOL_ROWS = 5000


@dataclass(frozen=True)
class Pool:
    """The rows of a data set.

    Attributes:
        train: What samples are drawn from.
        test: What is predicted.
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
    if name == "trec":
        yield _trec()
        return
    split = SplitSettings(gate_rows=20)
    opened = glue_data(name, _POOL_ROWS) if name == "sst2" else prepared_data(name, _POOL_ROWS, split)
    with opened as prepared:
        train = joined(load_split(prepared, "train"), load_split(prepared, "dev"))
        yield Pool(name, train, load_split(prepared, "test"), tuple(load_summary(prepared)["labels"]))


def _trec() -> Pool:
    """TREC's six coarse labels, as its authors divided the questions (Li and Roth, 2002)."""
    folder = (data_folder() or Path("nowhere")) / "TREC"
    if not (folder / "train_5500.label").is_file():
        raise InputError(f"{VARIABLE} names no folder with TREC/train_5500.label and TREC/TREC_10.label")
    parts = {part: _read(folder / file) for part, file in (("train", "train_5500.label"), ("test", "TREC_10.label"))}
    names = sorted({name for name, _ in parts["train"]})
    seen = {text for _, text in parts["test"]}

    def rows(part: str) -> Rows:
        texts: dict[str, int] = {}
        for name, text in parts[part]:
            if part == "test" or text not in seen:
                texts.setdefault(text, names.index(name))
        return Rows([f"{part}-{at}" for at in range(len(texts))], list(texts), None, list(texts.values()))

    return Pool("trec", rows("train"), rows("test"), tuple(names))


def _read(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="latin-1").splitlines()
    return [(label.partition(":")[0], text) for label, _, text in (line.partition(" ") for line in lines) if text]
