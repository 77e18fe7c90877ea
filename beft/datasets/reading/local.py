"""The folder of the user's own copies of published data sets, which ``BEFT_DATA_DIR`` names."""

import os
from pathlib import Path

from beft.datasets.sources import HubSource, LocalFile

VARIABLE = "BEFT_DATA_DIR"


def data_folder() -> Path | None:
    """The folder; None where the variable is not set."""
    value = os.environ.get(VARIABLE)
    return Path(value).expanduser().resolve() if value else None


def found_locally(source: HubSource) -> list[tuple[str, LocalFile, Path]]:
    """The files that take the place of the hub, of the first way that has all its splits: split, file, path.

    Returns:
        Nothing, where the variable is not set or the folder lacks a split in every way.
    """
    folder = data_folder()
    if folder is None:
        return []
    for way in source.local:
        found = [
            (split, file, folder / file.file)
            for split, files in way.splits.items()
            for file in [next((one for one in files if (folder / one.file).is_file()), None)]
            if file is not None
        ]
        if len(found) == len(way.splits):
            return found
    return []


def why_not_local(source: HubSource) -> str:
    """One sentence that says what would have to be there."""
    ways = [
        " and ".join(" or ".join(file.file for file in files) for files in way.splits.values()) for way in source.local
    ]
    folder = data_folder()
    where = f"{VARIABLE} is not set" if folder is None else f"{folder}, which {VARIABLE} names, lacks files"
    return f"{where}: it needs {'; or '.join(ways)}"
