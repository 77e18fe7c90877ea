"""A real PostgreSQL, made for the tests and gone after them."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "beft", "p%40ss/of:the@database"
"""The password is an unkind one: each of its signs means something in an address."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgresql() -> Iterator[int]:
    """The port of an empty server, which asks USER for PASSWORD and has a database of that user's name.

    Where PostgreSQL is not installed, the test is skipped.
    """
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="beft-postgresql-"))  # pytest's own folders are closed to other users
    as_user = _as_user(folder)
    (folder / "password").write_text(PASSWORD)
    port = free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    data = ["-D", str(folder / "data")]
    login = ["-U", USER, "-A", "scram-sha-256", "--pwfile", str(folder / "password")]

    def call(name: str, *arguments: str) -> None:
        command = [str(binaries / name), *arguments]
        # Into a file: the server that pg_ctl leaves behind would hold a pipe open.
        with (folder / "said").open("wb") as said:
            done = subprocess.run(command, cwd=folder, stdout=said, stderr=said, timeout=60, check=False, **as_user)
        assert done.returncode == 0, (folder / "said").read_text()

    try:
        call("initdb", *data, *login, "--no-sync", "--no-locale", "-E", "UTF8")
        call("pg_ctl", *data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            _make_database(port)
            yield port
        finally:
            call("pg_ctl", *data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _binaries() -> Path | None:
    """Where Debian (or another) has the server's commands; the newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None


def _as_user(folder: Path) -> dict[str, Any]:
    """Who runs a command: PostgreSQL refuses to be run by root."""
    if os.getuid() != 0:
        return {}
    found = pwd.getpwnam("postgres")
    os.chown(folder, found.pw_uid, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _make_database(port: int) -> None:
    import psycopg

    where = {"host": "127.0.0.1", "port": port, "user": USER, "password": PASSWORD, "dbname": "postgres"}
    with psycopg.connect(**where, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {USER}")
