"""An adapter out of the registry, as a folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.errors import InputError
from tasks.connection import as_default, connect
from tasks.settings import PipelineSettings


@contextmanager
def registered_adapter(name: str, settings: PipelineSettings, root: Path) -> Iterator[Path]:
    """The adapter's folder of a registered version, fetched for the length of a block.

    Args:
        name: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        root: The project's folder, whose registry is asked unless the settings or the environment name a server.

    Raises:
        InputError: There is no such model, version or alias, or it is no adapter of ours.
    """
    connection = connect(settings, root)

    import mlflow
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="beft-adapter-") as folder, as_default(connection):
        try:
            model = Path(mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=folder))
        except (MlflowException, OSError) as error:
            raise InputError(f"{name} cannot be had from {connection.uri}: {str(error).splitlines()[0]}") from None
        found = model / "artifacts" / "adapter"
        if not found.is_dir():
            raise InputError(f"{name} holds no adapter that beft registered")
        yield found
