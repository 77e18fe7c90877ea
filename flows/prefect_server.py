"""The Prefect server that is named: its address, whether it answers, and what is said where it does not."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from beft.errors import BeftError
from flows.commands import server_command
from flows.links import LOCAL_PREFECT

DEFAULT_SERVER = f"{LOCAL_PREFECT}/api"
"""Where ``beft ui`` serves Prefect."""


def server_address() -> str:
    """The address of the Prefect server: ``PREFECT_API_URL`` or that of Prefect's profile, else that of ``beft ui``.

    Raises:
        BeftError: It does not answer.
    """
    address = _named() or DEFAULT_SERVER
    reason = _silent(address)
    if reason:
        start = server_command("ui")
        raise BeftError(f"{_no_answer(address, reason)}; start one with '{start}', or name another in PREFECT_API_URL")
    return address


@contextmanager
def at_server() -> Iterator[None]:
    """Run a flow in the block: at the server that is named, which must answer, or at a temporary one.

    Raises:
        BeftError: It does not answer, at the start or when something of Prefect's own failed.
    """
    address = _named()
    if address and (reason := _silent(address)):
        raise BeftError(
            f"{_no_answer(address, reason)}; start it, or leave PREFECT_API_URL empty to run with a temporary one"
        )
    if not address:
        from flows.temporary_server import TemporaryServer

        TemporaryServer().start()
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


def _named() -> str:
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "")


def _silent(address: str) -> str:
    """Why the server does not answer; nothing where it does."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=10):
            return ""
    except (OSError, ValueError, urllib.error.URLError) as error:
        return str(getattr(error, "reason", error))


def _no_answer(address: str, reason: str) -> str:
    return f"no Prefect server answers at {address} ({reason})"
