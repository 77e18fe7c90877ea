"""Prepared data for a measurement, in a folder that goes away."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.datasets import find_dataset
from beft.datasets.loaders import fetch_source
from beft.datasets.preparation import prepare_source
from beft.settings import SplitSettings

ROOT = Path(__file__).parent.parent


@contextmanager
def prepared_data(dataset: str, size: int | str, split: SplitSettings) -> Iterator[Path]:
    """Fetch and prepare a dataset, as the steps of the same names do."""
    with tempfile.TemporaryDirectory() as folder:
        raw, prepared = Path(folder, "raw"), Path(folder, "prepared")
        raw.mkdir()
        prepared.mkdir()
        fetch_source(find_dataset(dataset), raw, ROOT)
        prepare_source(raw, prepared, size=size, settings=split)
        yield prepared
