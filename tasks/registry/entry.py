"""What the registry says of a version: everything that it was made of, read from its own files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from beft.adapters.adapter import Adapter
from beft.adapters.record import RECORD_FILE
from beft.commands import own_command
from beft.errors import InputError
from beft.files import sha256_file
from tasks.engine.declaration import JSON
from tasks.registry.registered import fetch_model
from tasks.source_archive import SOURCE_ARCHIVE
from tasks.tracking.connection import Connection, every
from tasks.tracking.runs import FLOW

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})")
_VERSION = re.compile(r"(?:models:/)?(?P<model>[^/@:]+)(?:@(?P<alias>[^/@:]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Version:
    """A registered version's name."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model} version {self.version}"


@dataclass(frozen=True)
class RegistryEntry:
    """A registered version, as its own files have it.

    Attributes:
        settings: Those of its run, as JSON.
        facts: What was known of its run (``tasks.run_metadata.run_facts``).
        source: The file with its source; None where a commit holds it.
    """

    version: Version
    adapter: Adapter
    settings: Mapping[str, JSON]
    facts: Mapping[str, JSON]
    source: Path | None
    record_sha256: str

    @property
    def dataset(self) -> str:
        """The dataset that it was trained on."""
        return self.adapter.dataset

    @property
    def data(self) -> Mapping[str, JSON]:
        """The hashes of its prepared data."""
        found: Mapping[str, JSON] = self.facts["data"][self.dataset]
        return found


def versions_named(connection: Connection, name: str) -> list[Version]:
    """The versions that a name stands for: one, or those that a run registered.

    Args:
        name: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``, with or without ``models:/``; or the id of a run of
            MLflow, that of a whole run of the flow or that of a trained adapter.

    Raises:
        InputError: It is no such name, or there is nothing of that name.
    """
    from mlflow.exceptions import MlflowException

    client = connection.client
    run = _RUN.fullmatch(name)
    try:
        if run is not None:
            return _of_run(connection, run[1])
        found = _VERSION.fullmatch(name)
        if found is None:
            raise InputError(
                f"{name!r} names no version: write models:/NAME@ALIAS, models:/NAME/VERSION or the id of a run "
                f"({own_command('beft', 'history')} lists the models)"
            )
        if found["alias"]:
            version = client.get_model_version_by_alias(found["model"], found["alias"])
        else:
            version = client.get_model_version(found["model"], found["version"])
    except MlflowException as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{name} could not be downloaded from {connection.uri}: {said}") from None
    return [Version(found["model"], str(version.version))]


def _of_run(connection: Connection, run_id: str) -> list[Version]:
    client = connection.client
    run = client.get_run(run_id)
    found = every(client.search_model_versions, f"run_id = '{run_id}'")
    if not found and FLOW in run.data.tags:
        found = every(client.search_model_versions, f"tags.flow_fingerprint = '{run.data.tags[FLOW]}'")
    if not found:
        parent = run.data.tags.get("mlflow.parentRunId")
        where = f"; its parent {parent} may have" if parent else ""
        raise InputError(f"the run {run_id} ({run.info.status}) registered no adapter{where}")
    return sorted((Version(one.name, str(one.version)) for one in found), key=lambda one: one.model)


def read_entry(connection: Connection, version: Version, folder: Path) -> RegistryEntry:
    """Read a version's files.

    Args:
        folder: Where they are copied to.

    Raises:
        InputError: It is not there, or beft did not register it.
    """
    model = fetch_model(connection, f"models:/{version.model}/{version.version}", folder)
    adapter = model / "artifacts" / "adapter"
    stored = yaml.safe_load((model / "MLmodel").read_text(encoding="utf-8")) if (model / "MLmodel").is_file() else {}
    metadata = stored.get("metadata") or {}
    if not adapter.is_dir() or not {"settings", "facts"} <= set(metadata):
        raise InputError(f"{version} is no adapter that beft registered: there is nothing to rebuild it from")
    loaded = Adapter.load(adapter)
    if loaded.dataset not in metadata["facts"].get("data", {}):
        raise InputError(f"{version} does not say which data of {loaded.dataset} it was trained on")
    kept = model / SOURCE_ARCHIVE
    return RegistryEntry(
        version,
        loaded,
        metadata["settings"],
        metadata["facts"],
        kept if kept.is_file() else None,
        sha256_file(adapter / RECORD_FILE),
    )
