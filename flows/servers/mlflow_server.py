"""The MLflow server by itself: for one person, or for a team with PostgreSQL, accounts and an artifact proxy.

It ends with this process, however that ends: whatever stops or watches it (Ctrl-C, systemd, a container) needs to know
no other.
Secrets come from the environment and stay there: none is on a command line, where every user of the machine reads it.
"""

import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import unquote, urlsplit

import typer

from beft.commands import own_command, pip_install
from beft.errors import BeftError, InputError
from beft.files import write_text
from flows.terminal.commands import server_command
from tasks.engine.supervisor import end, start
from tasks.environment import configure_environment, sqlite_uri
from tasks.passwords import holds_password
from tasks.tracking.address import POSTGRESQL_DRIVER

LOOPBACK = "127.0.0.1"
DATABASE = "MLFLOW_BACKEND_STORE_URI"
SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"
ADMIN, ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"
CLIENT = frozenset({"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_URL"})
"""Variables of clients. A server answers here itself: another server's address would mislead it."""

_OWN_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*,[::1],[::1]:*"
_CONNECT_SECONDS = 10
_STOP_SECONDS = 15


@dataclass(frozen=True)
class Server:
    """What is started: the arguments after ``python -m``, and the whole environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def personal_arguments(root: Path, host: str, port: int) -> tuple[str, ...]:
    """The server of one person: the database and the artifacts inside the project, no accounts."""
    artifacts = root / "mlflow" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    database = sqlite_uri(root / "mlflow" / "mlflow.db")
    stores = ("--backend-store-uri", database, "--artifacts-destination", artifacts.as_uri())
    return ("mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *stores)


def personal_server(root: Path, host: str, port: int, environment: Mapping[str, str]) -> Server:
    """The server of one person, on this machine only.

    Raises:
        InputError: Another machine could reach it: it has no accounts.
    """
    if not is_loopback(host):
        raise InputError(
            f"--host {host}: a server without accounts is for this machine alone; "
            f"'{server_command('mlflow-server --team')}' starts one that asks for a name and a password"
        )
    return Server(personal_arguments(root, host, port), _without(environment, {*CLIENT, DATABASE}))


def team_server(root: Path, host: str, port: int, allowed_hosts: str | None, environment: Mapping[str, str]) -> Server:
    """The server of a team: PostgreSQL, accounts, and artifacts that pass through the server.

    Args:
        allowed_hosts: Host names that the server accepts, with commas; None: ``MLFLOW_SERVER_ALLOWED_HOSTS``.
        environment: The secrets (``MLFLOW_BACKEND_STORE_URI``, ``MLFLOW_FLASK_SERVER_SECRET_KEY``, and the first time
            ``MLFLOW_AUTH_ADMIN_PASSWORD``), and whatever else MLflow reads.

    Raises:
        InputError: Something that it needs is not named; all of it is said at once.
        BeftError: PostgreSQL refuses.
    """
    address = environment.get(DATABASE, "")
    hosts = allowed_hosts or environment.get("MLFLOW_SERVER_ALLOWED_HOSTS", "")
    missing = []
    if not address:
        missing.append(f"{DATABASE}: the database, as postgresql://USER:PASSWORD@HOST/NAME")
    elif urlsplit(address).scheme not in ("postgresql", POSTGRESQL_DRIVER):
        missing.append(f"{DATABASE}: the database of a team is PostgreSQL: postgresql://USER:PASSWORD@HOST/NAME")
    elif holds_password(_apart(address)[0]):
        missing.append(f"{DATABASE}: its password before the host, or in PGPASSWORD, not in the query")
    if not environment.get(SECRET_KEY):
        missing.append(f"{SECRET_KEY}: a long random text that stays the same, such as 'openssl rand -hex 32' prints")
    if not is_loopback(host) and not hosts:
        missing.append(f"MLFLOW_SERVER_ALLOWED_HOSTS (or --allowed-hosts): the names under which others ask {host}")
    if missing:
        raise InputError("the server of a team needs in its environment\n" + "\n".join(f"  - {of}" for of in missing))
    address, password = _apart(address)
    own = {DATABASE: address, "MLFLOW_AUTH_CONFIG_PATH": str(root / "mlflow" / "team.ini")}
    if password is not None:
        own["PGPASSWORD"] = password  # libpq takes it from here, and MLflow has none that it could show
    changed = {**_without(environment, CLIENT), **own}
    if not _has_admin(address, changed) and not changed.get(ADMIN_PASSWORD):
        raise InputError(
            f"the first start makes the account {changed.get(ADMIN, 'admin')!r}: name its password in "
            f"{ADMIN_PASSWORD}, 12 characters or more"
        )
    _write_accounts(root / "mlflow" / "team.ini", address)
    destination = environment.get("MLFLOW_ARTIFACTS_DESTINATION") or (root / "mlflow" / "team-artifacts").as_uri()
    arguments = ("mlflow", "server", "--host", host, "--port", str(port), "--app-name", "basic-auth")
    stores = ("--serve-artifacts", "--artifacts-destination", destination)
    workers = ("--workers", environment.get("MLFLOW_WORKERS") or "2")
    names = ",".join(name for name in (_OWN_HOSTS, hosts) if name)
    return Server((*arguments, *stores, *workers, "--allowed-hosts", names), changed)


def serve_mlflow(root: Path, *, team: bool, host: str, port: int, allowed_hosts: str | None) -> int:
    """Run the server until Ctrl-C, SIGTERM or its own end; its exit status, 0 where it was stopped.

    Raises:
        InputError: The port is taken, or something that the server needs is not named.
        BeftError: PostgreSQL refuses.
    """
    configure_environment(root)
    root = root.resolve()
    require_free(host, port, "MLflow", "mlflow-server --port …")
    if team:
        server = team_server(root, host, port, allowed_hosts, os.environ)
    else:
        server = personal_server(root, host, port, os.environ)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts what it puts into the background deaf to SIGINT
        signal.signal(number, _interrupt)
    command = [sys.executable, "-m", *server.arguments]
    process = start(command, patience=_STOP_SECONDS, cwd=root, env=dict(server.environment))
    try:
        typer.echo(f"MLflow at http://{network_location(host, port)}; Ctrl-C stops it.")
        sys.stdout.flush()
        status = process.wait()
        return status if status >= 0 else 128 - status  # as a shell names the signal that ended it
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # stopping takes a moment; a second Ctrl-C must not cut it short
        end(process, _STOP_SECONDS)


def require_free(host: str, port: int, who: str, instead: str) -> None:
    """Make sure that nothing else listens on a port.

    Args:
        who: Who would take it.
        instead: How another one is named.

    Raises:
        InputError: Something does, or there is no such host here.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise InputError(f"--host {host}: no such name or address") from None
    except OSError as error:
        raise InputError(
            f"port {port} of {host}, which {who} would take, is taken ({error.strerror}); name another: "
            f"{own_command('beft')} {instead}"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def network_location(host: str, port: int) -> str:
    """Host and port as a URL has them, an IPv6 address in brackets.

    Example:
        >>> network_location("::1", 5000)
        '[::1]:5000'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _without(environment: Mapping[str, str], names: set[str] | frozenset[str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def _apart(address: str) -> tuple[str, str | None]:
    """An address that names its driver and holds no password before its host, and that password."""
    parts = urlsplit(address)._replace(scheme=POSTGRESQL_DRIVER)
    if parts.password is None:
        return parts.geturl(), None
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}@{host}").geturl(), unquote(parts.password)


def _has_admin(address: str, environment: Mapping[str, str]) -> bool:
    """Whether the database holds accounts already.

    Raises:
        InputError: The driver is not installed.
        BeftError: PostgreSQL refuses.
    """
    try:
        import psycopg
    except ImportError:
        raise InputError(f"the server of a team needs PostgreSQL's driver: {pip_install('beft[team]')}") from None

    plain = address.replace(f"{POSTGRESQL_DRIVER}:", "postgresql:", 1)
    password = environment.get("PGPASSWORD")
    try:
        with psycopg.connect(plain, password=password, connect_timeout=_CONNECT_SECONDS) as connection:
            [there] = connection.execute("SELECT to_regclass('users') IS NOT NULL").fetchone() or (False,)
            if not there:
                return False
            return connection.execute("SELECT 1 FROM users WHERE is_admin").fetchone() is not None
    except psycopg.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise BeftError(f"the database of {DATABASE} refuses: {said}") from None


def _write_accounts(path: Path, address: str) -> None:
    """MLflow's settings of the accounts. They lie in the same database, and members may write but not delete."""
    lines = [
        "# Made by 'beft mlflow-server --team' each time that it starts. There is no secret in it.",
        "[mlflow]",
        "default_permission = EDIT",
        f"database_uri = {address.replace('%', '%%')}",
        "admin_username = admin",
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        # Without it every request pays for the slow hash of a password: half a second on a slow core.
        "auth_cache_ttl_seconds = 60",
    ]
    write_text(path, "\n".join(lines) + "\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
