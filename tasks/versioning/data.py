"""Which of a run's data DVC makes, and whether a source has changed since DVC fetched it."""

import logging
from collections.abc import Iterable
from pathlib import Path

from beft.datasets.reading.loaders import RECORD as SOURCE
from beft.datasets.reading.loaders import source_identity
from beft.datasets.registry import find_dataset
from beft.errors import InputError
from beft.files import read_json, sha256_file
from tasks.engine.settings_view import settings_subset
from tasks.pipeline import dvc_folder, find_step
from tasks.settings import PipelineSettings
from tasks.versioning.dvc import has_stages

logger = logging.getLogger(__name__)


def datasets_of_dvc(settings: PipelineSettings, root: Path) -> list[str]:
    """The datasets whose data DVC's stages make: those that ``params.yaml`` asks for with the same data settings.

    Data of any other settings is made by the flow in its own folders, and ``dvc.lock`` never hears of it.
    """
    if not has_stages(root):
        return []
    try:
        kept = PipelineSettings.read(root / "params.yaml")
    except InputError as error:
        logger.warning("the data is made without DVC: %s", error)
        return []
    sections = [find_step(name).settings for name in ("fetch", "prepare")]
    return [
        name
        for name in settings.datasets
        if name in kept.datasets
        and all(settings_subset(settings, each, name) == settings_subset(kept, each, name) for each in sections)
    ]


def changed_sources(root: Path, datasets: Iterable[str]) -> list[str]:
    """The datasets whose source is no longer what was fetched; DVC itself sees only files below ``data/datasets``.

    Raises:
        InputError: A file of a source is missing.
    """
    return [name for name in datasets if _source_changed(root, name)]


def _source_changed(root: Path, dataset: str) -> bool:
    folder = root / dvc_folder(f"fetch/{dataset}")
    description, record = folder / f"{dataset}.yaml", folder / SOURCE
    if not (description.is_file() and record.is_file()):
        return False  # DVC makes or restores it
    now = source_identity(find_dataset(dataset, root), root)
    if now.pop("description") != sha256_file(description):
        return True
    # Not by name: a copy has another one where two are equal. In order: rows are numbered in that of their files.
    files = [(name.partition("/")[0], sha256) for name, sha256 in now.items()]
    return bool(now) and files != [(file["split"], file["sha256"]) for file in read_json(record)["files"]]
