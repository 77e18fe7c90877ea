"""compare: a challenger and the champion of a registered model, freshly on the same rows of the gate split."""

from collections.abc import Mapping
from pathlib import Path

from beft.adapters.adapter import Adapter
from beft.commands import own_command
from beft.comparison.versions import CHALLENGER, CHAMPION, Version, compare_versions
from beft.datasets.prepared import PreparedData
from beft.errors import InputError
from beft.files import read_json, write_json
from beft.training.opening import open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.registry.package import TRAINING_ROWS_FILE
from tasks.settings import PipelineSettings


def compare(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write what the verdict on a challenger is made of.

    Args:
        inputs: ``prepare``, ``challenger`` and, where there is one, ``champion``: folders of MLflow models.

    Raises:
        InputError: A version holds no adapter of this base, or no row of the gate split is new to both.
    """
    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    versions = [_version(side, inputs[side]) for side in (CHALLENGER, CHAMPION) if side in inputs]
    compared = compare_versions(session, versions, settings.promotion)
    write_json(out / "comparison.json", compared.to_json())
    return {"rows": compared.rows, "scores": {name: side.score for name, side in compared.sides.items()}}


def _version(name: str, folder: Path) -> Version:
    """A version as the registry gave it."""
    adapter = folder / "artifacts" / "adapter"
    if not adapter.is_dir() or not (folder / TRAINING_ROWS_FILE).is_file():
        again = own_command("beft", "run")
        raise InputError(f"the {name} was not registered by this version of beft: register it again with {again}")
    size = sum(path.stat().st_size for path in adapter.iterdir())
    return Version(name, Adapter.load(adapter), size, frozenset(read_json(folder / TRAINING_ROWS_FILE)))


compare_step = Step(
    compare,
    reads=("prepare", "challenger", "champion"),
    settings=(*CLASSIFIER_SECTIONS, "evaluate", "promotion"),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
