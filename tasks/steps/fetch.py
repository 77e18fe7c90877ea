"""Fetch: copy the raw source of a dataset as it is."""

from collections.abc import Mapping
from pathlib import Path

from beft.datasets.reading.loaders import fetch_source, source_identity
from beft.datasets.registry import find_dataset
from tasks.engine.declaration import JSON, Step
from tasks.settings import PipelineSettings


def fetch(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
) -> dict[str, JSON]:
    """Copy the source of a dataset into ``out``, with a ``source.json`` that says where it came from.

    Args:
        root: The workspace's folder, where own datasets and the paths of their files begin; None: the current one.

    Raises:
        InputError: The dataset is unknown, or its source cannot be reached.
    """
    root = root or Path.cwd()
    record = fetch_source(find_dataset(str(dataset), root), out, root)
    return {"origin": record["origin"], "bytes": sum(file["bytes"] for file in record["files"])}


def _watched(settings: PipelineSettings, dataset: str | None, root: Path) -> dict[str, str]:
    return source_identity(find_dataset(str(dataset), root), root)


fetch_step = Step(fetch, extra_inputs=_watched)
