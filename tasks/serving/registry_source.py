"""The adapters in a registry that a server is to have: listed cheaply again and again, fetched once."""

import fnmatch
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beft.errors import InputError
from beft.serving.canary import CANARY_FILE
from beft.serving.reference import REFERENCE_FILE
from tasks.tracking.connection import Connection, every, translate_errors

ADAPTER = "artifacts/adapter"
"""Where an adapter's folder is in the files of a registered version."""


@dataclass(frozen=True)
class VersionKey:
    """A registered version, and no other of the same name and number in a model that was deleted and made again.

    Attributes:
        created: When the model of this name was made, milliseconds.
    """

    name: str
    created: int
    version: str


@dataclass(frozen=True)
class ModelFiles:
    """The files of a registered version on this machine.

    Attributes:
        adapter: The adapter's folder.
        canary: Its canary; None: it was registered without one.
        reference: What later traffic is compared with; None: it was registered without one.
        sha256: Of the adapter's tensor file, as the registry has it; None: it has none.
    """

    adapter: Path
    canary: Path | None
    reference: Path | None
    sha256: str | None


class RegistrySource:
    """The versions of a registry that have one of some aliases.

    Args:
        patterns: Names of registered models, with ``*`` and ``?``.
        aliases: The aliases, by rank.
    """

    def __init__(self, connection: Connection, patterns: Sequence[str], aliases: Sequence[str]) -> None:
        self.connection, self.patterns, self.aliases = connection, tuple(patterns), tuple(aliases)

    @translate_errors
    def poll(self) -> dict[VersionKey, tuple[str, ...]]:
        """The versions that are to be served, each with its aliases: one search of the registry."""
        found: dict[VersionKey, tuple[str, ...]] = {}
        for model in every(self.connection.client.search_registered_models, max_results=1000):
            if not any(fnmatch.fnmatchcase(model.name, pattern) for pattern in self.patterns):
                continue
            of_version: dict[str, list[str]] = {}
            for alias in self.aliases:
                if alias in model.aliases:
                    of_version.setdefault(str(model.aliases[alias]), []).append(alias)
            for version, aliases in of_version.items():
                found[VersionKey(model.name, model.creation_timestamp, version)] = tuple(aliases)
        return found

    @contextmanager
    def files(self, key: VersionKey) -> Iterator[ModelFiles]:
        """The files of a version, for the length of a block: where they are, or fetched.

        Raises:
            InputError: It holds no adapter, or its files cannot be fetched.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        client = self.connection.client
        with tempfile.TemporaryDirectory(prefix="beft-served-") as temporary:
            try:
                version = client.get_model_version(key.name, key.version)
                location = version.source
                if location.startswith("models:/"):
                    location = client.get_logged_model(location.removeprefix("models:/")).artifact_location
                repository = get_artifact_repository(location, tracking_uri=self.connection.uri)
                here = getattr(repository, "artifact_dir", None)
                if here is None:
                    names = {Path(file.path).name for file in repository.list_artifacts()}
                    wanted = [ADAPTER, *(name for name in (CANARY_FILE, REFERENCE_FILE) if name in names)]
                    for path in wanted:
                        repository.download_artifacts(path, temporary)
                    here = temporary
            except (MlflowException, OSError) as error:
                said = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError(f"the files of {key.name} version {key.version} cannot be fetched: {said}") from None
            adapter, canary, reference = (Path(here) / name for name in (ADAPTER, CANARY_FILE, REFERENCE_FILE))
            if not adapter.is_dir():
                raise InputError(f"{key.name} version {key.version} holds no adapter that beft registered")
            yield ModelFiles(
                adapter,
                canary if canary.is_file() else None,
                reference if reference.is_file() else None,
                version.tags.get("adapter_sha256"),
            )
