"""An adapter out of the registry, as a folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.errors import InputError
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, as_default, connect, require_registry


@contextmanager
def registered_adapter(name: str, settings: PipelineSettings, root: Path) -> Iterator[Path]:
    """The adapter's folder of a registered version, fetched for the length of a block.

    Args:
        name: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        root: The project's folder, whose registry is asked unless the settings or the environment name a server.

    Raises:
        InputError: There is no such model, version or alias, or it is no adapter of ours.
    """
    require_registry(settings, root)
    with tempfile.TemporaryDirectory(prefix="beft-adapter-") as folder:
        found = fetch_model(connect(settings, root), name, Path(folder)) / "artifacts" / "adapter"
        if not found.is_dir():
            raise InputError(f"{name} holds no adapter that beft registered")
        yield found


def fetch_model(connection: Connection, name: str, folder: Path) -> Path:
    """Copy a registered version's MLflow model below a folder; the model's own folder.

    Raises:
        InputError: There is no such model, version or alias.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with as_default(connection):
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            said = str(error).splitlines()[0]
            raise InputError(f"{name} could not be downloaded from {connection.uri}: {said}") from None
