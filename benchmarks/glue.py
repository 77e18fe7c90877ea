"""SST-2 and RTE from files that the reader has: GLUE's own TSV files in the folder that BEFT_DATA_DIR names.

GLUE's dev split, whole, is the evaluation split; the sample is drawn from its train split. The files are read where
they are, and nothing of them stays in the project.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.adaptation import joined, labelled
from beft.classifier import Classifier
from beft.datasets import Description, load_split
from beft.datasets.loaders import source_identity
from beft.errors import InputError
from beft.names import known_name
from beft.runs import LabelledRows
from beft.settings import SplitSettings
from benchmarks.prepared import prepared_data

VARIABLE = "BEFT_DATA_DIR"
GLUE = {
    name: Description.from_mapping({"name": name, "version": 1, **values}, name)
    for name, values in {
        "sst2": {
            "title": "SST-2, sentences and phrases of film reviews",
            "source": {"kind": "files", "train": "SST-2/train.tsv", "test": "SST-2/dev.tsv"},
            "columns": {"text": "sentence", "label": "label"},
            "labels": {"negative": 0, "positive": 1},
            "sizes": {"low": 1000},
        },
        "rte": {
            "title": "RTE, whether one text follows from another",
            "source": {"kind": "files", "train": "RTE/train.tsv", "test": "RTE/dev.tsv"},
            "columns": {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
            "labels": ["entailment", "not_entailment"],
            "sizes": {"low": 300},
        },
    }.items()
}
"""The datasets by name, with the rows of the published low regime."""

_SPLIT = SplitSettings(gate_rows=20)  # nothing is promoted here: the fewest that a split can have


def data_folder() -> Path | None:
    """The folder with the files; None where the variable is not set."""
    value = os.environ.get(VARIABLE)
    return Path(value).expanduser().resolve() if value else None


@contextmanager
def glue_data(name: str, size: int | str = "low", *, draw: int = 0) -> Iterator[Path]:
    """The prepared data of a dataset: the sample, and GLUE's dev split as test.

    Raises:
        InputError: The variable is not set, the dataset is unknown, or its files are missing or not as they should be.
    """
    description = GLUE[known_name(name, GLUE, "GLUE dataset")]
    split = _SPLIT.model_copy(update={"draw": draw})
    with prepared_data(description, size, split, root=_folder()) as prepared:
        yield prepared


def glue_identity(name: str) -> dict[str, str]:
    """What a dataset's rows depend on: the hashes of its files and its description."""
    return source_identity(GLUE[name], _folder())


def glue_rows(classifier: Classifier, name: str, size: int | str, max_length: int) -> LabelledRows:
    """A sample of the train rows of SST-2 (``sst2``) or RTE (``rte``), encoded; all of its ``size`` rows.

    Raises:
        InputError: The variable is not set, or the files are missing or not as they should be.
    """
    with glue_data(name, size) as prepared:
        rows = joined(load_split(prepared, "train"), load_split(prepared, "dev"))
    return labelled(classifier, rows, max_length)


def _folder() -> Path:
    folder = data_folder()
    if folder is None:
        raise InputError(f"{VARIABLE} is not set; name the folder that holds SST-2/ and RTE/ with their TSV files")
    return folder
