"""What stands behind an address of MLflow, and whether it answers: by the rules and the clients of MLflow itself."""

import importlib.util
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

from beft.commands import own_command, pip_install
from beft.errors import BeftError, InputError
from tasks.engine.supervisor import STOPPING

POSTGRESQL_DRIVER = "postgresql+psycopg"
"""How SQLAlchemy names the driver that beft brings; its own choice for ``postgresql:`` is another one."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SECONDS = 10

_REFUSED = re.compile(
    r"authentication failed|no password supplied|does not exist|pg_hba\.conf|permission denied|Access denied"
)
"""What a database says that answers and lets nobody in: waiting for it does not help."""

log = logging.getLogger("beft.tracking")


def with_driver(uri: str) -> str:
    """The address, with the driver of PostgreSQL that is installed where it names none.

    Raises:
        InputError: None is, or it is no address.
    """
    found = _with_postgresql(uri)
    scheme = found.partition(":")[0]
    try:
        if scheme in ("http", "https"):
            if not urlsplit(found).hostname or urlsplit(found).port == 0:  # a wrong port raises
                raise ValueError("it names no server")
        elif scheme.partition("+")[0] in _DATABASES:
            _require_driver(found)
    except ValueError as error:
        raise InputError(f"{uri} is no address of MLflow: {error}") from None
    return found


def _require_driver(uri: str) -> None:
    """Make sure that SQLAlchemy understands the address of a database, and finds its driver.

    Raises:
        InputError: The driver is not installed, or is one that MLflow cannot use.
        ValueError: It does not understand it.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        dialect = url.get_dialect()
        dialect.import_dbapi()
        dialect().create_connect_args(url)
    except ArgumentError as error:
        raise ValueError(str(error).splitlines()[0].partition(" from given")[0]) from None
    except ValueError:
        raise ValueError("its host or port cannot be read") from None
    except ImportError as error:
        raise InputError(
            f"{uri} needs the database driver {error.name!r}, which is not installed: install it, or name "
            "another one in the address, as DATABASE+DRIVER:"
        ) from None
    if dialect.is_async:
        raise InputError(f"{uri} names a driver that MLflow cannot use: leave '+{dialect.driver}' out")


def _with_postgresql(uri: str) -> str:
    scheme, _, rest = uri.partition(":")
    if scheme not in ("postgresql", "postgres", POSTGRESQL_DRIVER):
        return uri
    if scheme != POSTGRESQL_DRIVER and importlib.util.find_spec("psycopg2"):
        return f"postgresql:{rest}"
    if importlib.util.find_spec("psycopg"):
        return f"{POSTGRESQL_DRIVER}:{rest}"
    raise InputError(f"{uri} needs PostgreSQL's driver: {pip_install('beft[team]')}")


def is_database(uri: str) -> bool:
    """Whether MLflow's client itself works in a database there, without a server."""
    from mlflow.store.db.db_types import DATABASE_ENGINES
    from mlflow.utils.uri import get_uri_scheme

    return get_uri_scheme(uri) in DATABASE_ENGINES


def is_remote(uri: str) -> bool:
    """Whether something else than a file of this machine is asked, which may be away."""
    from mlflow.utils.uri import get_uri_scheme, is_http_uri

    return is_http_uri(uri) or (is_database(uri) and get_uri_scheme(uri) != "sqlite")


def keeps_files_here(uri: str) -> bool:
    """Whether the files of runs are kept where this process says; behind a server it is the server's own affair."""
    from mlflow.utils.uri import get_uri_scheme, is_databricks_uri

    return is_database(uri) or (not is_databricks_uri(uri) and get_uri_scheme(uri) in ("", "file"))


def pages_of(uri: str) -> str | None:
    """What the address of each page of a server begins with; None where there is no server."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.databricks_utils import get_databricks_host_creds
    from mlflow.utils.uri import is_databricks_uri, is_http_uri

    if is_http_uri(uri):
        return f"{uri.rstrip('/')}/#"
    if not is_databricks_uri(uri):
        return None
    try:
        return f"{get_databricks_host_creds(uri).host.rstrip('/')}/ml"
    except MlflowException:
        return "https://databricks"  # whose address nobody knows here


def silence(uri: str) -> str | None:
    """Why what is remote does not answer; None when it does, with a refusal perhaps, which MLflow's client meets next.

    Asked as MLflow's client asks, with its logins, certificates and proxies, but once: the client goes on for minutes.

    Raises:
        BeftError: A database answers and refuses.
    """
    return _silence_of_database(uri) if is_database(uri) else _silence_of_server(uri)


def _silence_of_server(uri: str) -> str | None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        creds = get_default_host_creds(uri)
        status = http_request(
            creds,
            "/health",
            "GET",
            max_retries=0,
            timeout=2 if STOPPING.is_set() else _SECONDS,
            raise_on_status=False,
        ).status_code
    except MlflowException as error:
        return _innermost(error)
    return f"status {status}" if status in (502, 503, 504) else None  # a proxy whose server is away


def _silence_of_database(uri: str) -> str | None:
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from sqlalchemy.exc import OperationalError

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    except OperationalError as error:
        reason = _innermost(error)
        if _REFUSED.search(reason):
            raise BeftError(f"the MLflow database at {uri} refuses: {reason}") from None
        return reason
    finally:
        engine.dispose()
    return None


def _innermost(error: BaseException) -> str:
    """What happened at the bottom of it, in one line."""
    seen = {id(error)}
    while (below := error.__cause__ or error.__context__) is not None and id(below) not in seen:
        seen.add(id(below))
        error = below
    return " ".join(str(error).split()) or type(error).__name__


def files_of_database(uri: str, root: Path, destination: str | None) -> str:
    """Where the files of an experiment are kept that is made in a database.

    Args:
        destination: ``MLFLOW_ARTIFACTS_DESTINATION``.
    """
    folder = root.resolve() / "mlflow" / "artifacts"
    if not is_remote(uri):
        return folder.as_uri()
    if destination:
        return destination if "://" in destination else Path(destination).resolve().as_uri()
    log.warning(
        "the files of runs in %s are kept in %s, where other machines do not see them: name a place that they share in "
        "MLFLOW_ARTIFACTS_DESTINATION, or use a server (%s)",
        uri,
        folder,
        own_command("beft", "mlflow-server", "--team"),
    )
    return folder.as_uri()
