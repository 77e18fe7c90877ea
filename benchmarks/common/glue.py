"""SST-2 and RTE from files that the reader has, in the folder that BEFT_DATA_DIR names.

GLUE's dev split, whole, is the evaluation split; the sample is drawn from its train split. The files are read where
they are, nothing of them stays in the project, and nothing is downloaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.datasets.description import Description
from beft.datasets.prepared import load_split
from beft.datasets.reading.loaders import source_identity, whereabouts
from beft.datasets.reading.local import VARIABLE
from beft.datasets.registry import find_dataset
from beft.errors import InputError
from beft.inference.runs import LabelledRows
from beft.models.classifier import Classifier
from beft.names import known_name
from beft.settings import SplitSettings
from beft.training.sample import joined
from benchmarks.common.prepared import ROOT, prepared_data

GLUE = ("sst2", "rte")

_SPLIT = SplitSettings(gate_rows=20)  # nothing is promoted here: the fewest that a split can have


def is_here(name: str) -> bool:
    """Whether the files of a dataset are in the folder."""
    return whereabouts(find_dataset(name, ROOT), ROOT) == VARIABLE


@contextmanager
def glue_data(name: str, size: int | str = "low", *, draw: int = 0) -> Iterator[Path]:
    """The prepared data of a dataset: the sample, and GLUE's dev split as test.

    Raises:
        InputError: The dataset is unknown, or its files are not in the folder or not as they should be.
    """
    split = _SPLIT.model_copy(update={"draw": draw})
    with prepared_data(_described(name), size, split) as prepared:
        yield prepared


def glue_identity(name: str) -> dict[str, str]:
    """What a dataset's rows depend on: the hashes of its files and its description."""
    return source_identity(_described(name), ROOT)


def glue_rows(classifier: Classifier, name: str, size: int | str, max_length: int) -> LabelledRows:
    """A sample of the train rows of SST-2 (``sst2``) or RTE (``rte``), encoded; all of its ``size`` rows.

    Raises:
        InputError: The files are not in the folder or not as they should be.
    """
    with glue_data(name, size) as prepared:
        rows = joined(load_split(prepared, "train"), load_split(prepared, "dev"))
    return classifier.examples(rows, max_length)


def _described(name: str) -> Description:
    known_name(name, GLUE, "GLUE dataset")
    if not is_here(name):
        raise InputError(f"{VARIABLE} names no folder with SST-2/ and RTE/ and their train.tsv and dev.tsv")
    return find_dataset(name, ROOT)
