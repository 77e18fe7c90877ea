"""The connection to MLflow: which server or database, which experiment, and no trace of it in the process afterwards.

The default is a database and a folder of artifacts inside the project, ``mlflow/mlflow.db`` and ``mlflow/artifacts``,
without any server. A server is named by ``tracking.uri`` or ``MLFLOW_TRACKING_URI``.
"""

import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from beft.commands import own_command
from beft.errors import BeftError, InputError
from tasks.engine.supervisor import STOPPING
from tasks.engine.transient import broke_off
from tasks.environment import configure_environment, sqlite_uri
from tasks.passwords import require_no_password
from tasks.settings import PipelineSettings
from tasks.tracking.address import files_of_database, is_database, is_remote, keeps_files_here, silence, with_driver
from tasks.tracking.artifact_address import address_of_files, update_addresses

log = logging.getLogger("beft.tracking")

# What MLflow's pages show of an experiment depends on its kind; without one they expect traces of chats.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
ABOUT = "Bias adapters: one run for each run of the flow, a nested one for each method and dataset."
"""The description of an experiment."""


PATIENCE_SECONDS = 300.0
"""How long a server is waited for that has answered this process before: it is being restarted."""

TRIES = 3
"""How often a function that may be repeated is called when answers to it break off."""

_HURRY = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
    "PGCONNECT_TIMEOUT": "3",
}

_answered: set[str] = set()
_AGAIN = "start the run again, and it goes on with what is finished"

_STATUS_401 = re.compile(r"(?<![\w:./-])401(?![\w:/-])")
"""The status by itself, and no port or name that has these digits."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Connection:
    """An open connection: MLflow's client, the address it talks to, and the experiment that holds every run."""

    client: Any
    uri: str
    experiment: str


def tracking_uri(settings: PipelineSettings, root: Path) -> str:
    """The address of MLflow: the setting, else ``MLFLOW_TRACKING_URI``, else the database inside the project.

    Raises:
        InputError: The variable holds a password, the address is none, or the driver of the database is not installed.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        require_no_password(named, "MLFLOW_TRACKING_URI")
    return with_driver(settings.tracking.uri or named or uri_of_project(root))


def require_registry(settings: PipelineSettings, root: Path) -> None:
    """Make sure that there is a registry to read, without making one.

    Raises:
        InputError: The project has none yet, and no server is named.
    """
    if tracking_uri(settings, root) == uri_of_project(root) and not (root / "mlflow" / "mlflow.db").is_file():
        raise InputError(
            f"nothing is registered in {root.resolve()}: it has no mlflow/mlflow.db. Run this in the project's folder, "
            "or name a server in MLFLOW_TRACKING_URI"
        )


def connect(settings: PipelineSettings, root: Path, *, about: str = ABOUT) -> Connection:
    """Open MLflow; the first call in an empty project makes the database and the experiment.

    Args:
        about: The description of the experiment, where it has to be made.

    Raises:
        InputError: ``MLFLOW_TRACKING_URI`` holds a password, or the address is none.
        BeftError: The server does not answer or refuses the user, or the experiment was deleted.
    """
    configure_environment(root)
    uri = tracking_uri(settings, root)
    if is_remote(uri):
        _require_answer(uri)
    files = address_of_files(root) if uri == uri_of_project(root) else None

    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    # It writes tracebacks of what is raised all the same, and said in one line here.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    name = settings.tracking.experiment
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if files is not None:
            update_addresses(root, experiment.artifact_location if experiment is not None else None, files)
        if experiment is None:
            destination = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION")
            location = files or (files_of_database(uri, root, destination) if keeps_files_here(uri) else None)
            try:
                tags = _KIND | {"mlflow.note.content": about}
                return Connection(client, uri, client.create_experiment(name, location, tags=tags))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)  # another process made it in between
    except MlflowException as error:
        raise BeftError(_refused(uri, error)) from error
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        address = shlex.quote(f"MLFLOW_TRACKING_URI={uri}")
        restore = f"env {address} {own_command('mlflow', 'experiments', 'restore', '-x', experiment.experiment_id)}"
        raise BeftError(
            f"the MLflow experiment {name!r} was deleted; bring it back with "
            f"{restore}, or set tracking.experiment to another name"
        )
    return Connection(client, uri, experiment.experiment_id)


def every(search: Callable[..., Any], *arguments: Any, **keywords: Any) -> list[Any]:
    """All that one of the client's searches finds: it gives a page at a time, of 100 to 10,000 entries."""
    found: list[Any] = []
    token = None
    while True:
        page = search(*arguments, page_token=token, **keywords)
        found += page
        token = page.token
        if not token:
            return found


def versions_of(connection: Connection, name: str) -> list[Any]:
    """Every version of a registered model."""
    return every(connection.client.search_model_versions, f"name = '{name}'")


def in_experiment(settings: PipelineSettings, suffix: str) -> PipelineSettings:
    """The settings with an experiment beside that of the main job, named by it and a suffix."""
    tracking = settings.tracking
    own = tracking.model_copy(update={"experiment": f"{tracking.experiment}{suffix}"})
    return settings.model_copy(update={"tracking": own})


@contextmanager
def as_default(connection: Connection) -> Iterator[None]:
    """Make a connection MLflow's own default for the length of a block.

    Registering a model asks the process's default for the logged model, whichever client was told to register it.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(connection.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # forgets it; in the environment only where a block within has not forgotten it
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def uri_of_project(root: Path) -> str:
    """The address of the database inside a project."""
    return sqlite_uri(root.resolve() / "mlflow" / "mlflow.db")


def _require_answer(uri: str) -> None:
    """Ask a server or a database whether it is there: MLflow's client itself goes on asking for minutes.

    One that has answered this process before is waited for, so that a run outlives the server's restart; but not by a
    run that was stopped.
    """
    began, told = time.monotonic(), False
    patience = PATIENCE_SECONDS if uri in _answered and not STOPPING.is_set() else 0.0
    while (reason := silence(uri)) is not None:
        if time.monotonic() - began >= patience or STOPPING.is_set():
            waited = f" after {patience:.0f} s" if patience else ""
            _answered.discard(uri)  # nobody waits for it a second time
            raise BeftError(
                f"no MLflow {'database' if is_database(uri) else 'server'} answers at {uri}{waited} ({reason}); start "
                "it, or leave tracking.uri and "
                "MLFLOW_TRACKING_URI empty to use the database inside the project"
            )
        if not told:
            log.warning("MLflow at %s does not answer (%s); waiting for it", uri, reason)
            told = True
        STOPPING.wait(1)
    _answered.add(uri)


@contextmanager
def hurried() -> Iterator[None]:
    """Have MLflow's client give up within seconds in the block: a run was stopped, and whoever stopped it waits."""
    before = {name: os.environ.get(name) for name in _HURRY}
    os.environ.update(_HURRY)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def translate_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function that writes to MLflow say in one line what MLflow, its database or its files refused.

    The function then raises a BeftError in place of an MlflowException, an SQLAlchemyError or an OSError.
    """

    @wraps(function)
    def explaining(*arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*arguments, **keywords)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise BeftError(f"the files of MLflow: {error.strerror or error}{where}; {_AGAIN}") from error
        except Exception as error:
            from mlflow.exceptions import MlflowException
            from sqlalchemy.exc import SQLAlchemyError

            if not isinstance(error, MlflowException | SQLAlchemyError):
                raise
            raise BeftError(f"MLflow refused: {_said(error)}") from error

    return explaining


def retry_broken_response(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function whose second call changes nothing called again when an answer of the server broke off.

    That happens when the server is restarted. MLflow's client itself sends again only what got no answer at all.
    """

    @wraps(function)
    def repeating(*arguments: P.args, **keywords: P.kwargs) -> R:
        for _ in range(TRIES - 1):
            try:
                return function(*arguments, **keywords)
            except Exception as error:
                if not broke_off(error):
                    raise
                log.warning("an answer of the MLflow server broke off: %s is done again", function.__name__)
        return function(*arguments, **keywords)

    return repeating


def _refused(uri: str, error: Exception) -> str:
    """What to say when MLflow refuses: most of all, who is not let in."""
    said = _said(error)
    if getattr(error, "error_code", "") != "UNAUTHENTICATED" and not _STATUS_401.search(said):
        return f"MLflow at {uri} refused: {said}"
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user is None and os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"MLflow at {uri} does not let you in: the token in MLFLOW_TRACKING_TOKEN is wrong or has expired"
    if user is None:
        return f"MLflow at {uri} asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return (
        f"MLflow at {uri} does not let {user!r} in: the name in MLFLOW_TRACKING_USERNAME or the password in "
        "MLFLOW_TRACKING_PASSWORD is wrong"
    )


def _said(error: Exception) -> str:
    """The first line of an error, and what to do where that is known."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    if "database is locked" in said:
        return f"{said}: another process works on it; when that has ended, {_AGAIN}"
    if "readonly database" in said or "disk is full" in said:
        return f"{said}; {_AGAIN}"
    return said
