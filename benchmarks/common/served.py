"""Adapters in a registry, without the runs that would train them: for tests and measurements of serving."""

import shutil
import tempfile
from pathlib import Path

from beft.adapters.adapter import Adapter
from beft.inference.predictor import Predictor
from beft.serving.canary import CANARY_FILE, Canary
from tasks.serving.registry_source import ADAPTER
from tasks.tracking.connection import Connection, as_default


def canary_of(folder: Path, base: Path) -> Canary:
    """The canary of an adapter's folder."""
    return Canary.of(Predictor(folder, base=base, device="cpu"))


def register_adapter(
    connection: Connection, name: str, folder: Path, *, canary: Canary | None = None, alias: str | None = "champion"
) -> str:
    """Register an adapter's folder as a new version of a model; the version.

    Args:
        alias: That names it from now on; None: none does.
    """
    from mlflow.entities import LoggedModelStatus
    from mlflow.exceptions import MlflowException

    client = connection.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    logged = client.create_logged_model(connection.experiment, name="adapter")
    with tempfile.TemporaryDirectory(prefix="beft-registered-") as temporary:
        shutil.copytree(folder, Path(temporary) / ADAPTER)
        if canary is not None:
            canary.write(Path(temporary) / CANARY_FILE)
        client.log_model_artifacts(logged.model_id, temporary)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    with as_default(connection):
        version = client.create_model_version(
            name,
            source=f"models:/{logged.model_id}",
            tags={"adapter_sha256": Adapter.load(folder).sha256},
            model_id=logged.model_id,
        )
    number = str(version.version)
    if alias is not None:
        client.set_registered_model_alias(name, alias, number)
    return number
