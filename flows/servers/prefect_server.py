"""The Prefect server that is named: its address, whether it answers, and what is said where it does not."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from beft.errors import BeftError
from flows.runs.links import LOCAL_PREFECT
from flows.terminal.commands import server_command

DEFAULT_SERVER = f"{LOCAL_PREFECT}/api"
"""Where ``beft ui`` serves Prefect."""

_SECONDS = 10.0
_NAMING = ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH")


def server_address() -> str:
    """The address of the Prefect server: ``PREFECT_API_URL`` or that of Prefect's profile, else that of ``beft ui``.

    Raises:
        BeftError: It does not answer.
    """
    address = named_server() or DEFAULT_SERVER
    reason = _silent(address)
    if reason:
        start = server_command("ui")
        raise BeftError(f"{_no_answer(address, reason)}; start one with '{start}', or name another in PREFECT_API_URL")
    return address


@contextmanager
def at_server(check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Run a flow in the block: at the server that is named, which must answer, or at a temporary one.

    Args:
        check: What is to be known before the flow starts. It is called while a temporary server comes up, and ends
            it where it raises.

    Raises:
        BeftError: It does not answer, at the start or when something of Prefect's own failed.
    """
    address = named_server()
    if not address:
        _start_temporary(check)
    else:
        check()
        if reason := _silent(address):
            raise BeftError(
                f"{_no_answer(address, reason)}; start it, or leave PREFECT_API_URL empty to run with a temporary one"
            )
    try:
        yield
    except BeftError:
        raise
    except Exception as error:
        if not address or not (reason := _silent(address)):
            raise
        raise BeftError(
            f"{_no_answer(address, reason)} any more; when it does, start the run again, and it goes on with what is "
            "finished"
        ) from error


def _start_temporary(check: Callable[[], None]) -> None:
    from prefect.server.api.server import SubprocessASGIServer

    from flows.servers.temporary_server import TemporaryServer

    server: SubprocessASGIServer = TemporaryServer()
    if not isinstance(server, TemporaryServer):  # Prefect started its own for an earlier flow of this process:
        check()  # it gives that one to every flow, and it is not ours to stop
        return
    server.launch()
    try:
        check()
    except BaseException:
        server.stop()
        raise
    try:
        server.start()
    except RuntimeError as error:  # it waited in vain
        server.stop()
        raise BeftError(f"Prefect's temporary server did not start: {error}") from error


def named_server() -> str:
    """The address of the Prefect server that ``PREFECT_API_URL`` or Prefect's profile names; empty: none."""
    if not _may_be_named():
        return ""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "")


def _may_be_named() -> bool:
    """Whether there is anything that Prefect reads an address from; to import Prefect takes a second."""
    profiles = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect") / "profiles.toml"
    project = Path("pyproject.toml")
    return (
        "prefect" in sys.modules
        or any(os.environ.get(name) for name in _NAMING)
        or any(path.is_file() for path in (profiles, Path("prefect.toml"), Path(".env")))
        or (project.is_file() and "tool.prefect" in project.read_text(encoding="utf-8", errors="replace"))
    )


def _silent(address: str) -> str:
    """Why the server does not answer; nothing where it does.

    Asked by Prefect's own client, with its keys, logins, headers and certificates, but once.

    Raises:
        BeftError: It answers, and lets nobody in without a key or a login.
    """
    from httpx import HTTPStatusError
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    once = {PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _SECONDS}
    try:
        with temporary_settings(once), get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except Exception as failed:  # whatever its client needs before it asks
        error = failed
    if not isinstance(error, HTTPStatusError):
        return "" if error is None else " ".join(str(error).split()) or type(error).__name__
    status = error.response.status_code
    if status in (401, 403):
        raise BeftError(
            f"the Prefect server at {address} does not let you in (status {status}): set PREFECT_API_KEY for Prefect "
            "Cloud, or PREFECT_API_AUTH_STRING (NAME:PASSWORD) for a server with a login"
        )
    return f"status {status}" if status >= 500 else ""  # what answers so is there: Prefect itself meets it next


def _no_answer(address: str, reason: str) -> str:
    return f"no Prefect server answers at {address} ({reason})"
