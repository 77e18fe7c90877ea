"""Prepared data and the project's own settings, for a measurement."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from beft.datasets.description import Description
from beft.datasets.preparation import prepare_source
from beft.datasets.reading.loaders import fetch_source
from beft.datasets.registry import find_dataset
from beft.settings import Settings, SplitSettings

ROOT = Path(__file__).parents[2]


@contextmanager
def prepared_data(
    dataset: str | Description, size: int | str, split: SplitSettings, *, root: Path = ROOT
) -> Iterator[Path]:
    """Fetch and prepare a dataset, as the steps of the same names do, in a folder that goes away.

    Args:
        dataset: A known one's name, or a description.
        root: Where the paths of a dataset's own files begin.
    """
    description = find_dataset(dataset) if isinstance(dataset, str) else dataset
    with tempfile.TemporaryDirectory() as folder:
        raw, prepared = Path(folder, "raw"), Path(folder, "prepared")
        raw.mkdir()
        prepared.mkdir()
        fetch_source(description, raw, root)
        prepare_source(raw, prepared, size=size, settings=split)
        yield prepared


def settings_on_disk() -> Settings:
    """The science's sections of params.yaml."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return Settings.from_mapping({name: value for name, value in values.items() if name in Settings.model_fields})
