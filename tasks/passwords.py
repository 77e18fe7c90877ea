"""Passwords stay in the environment: an address that holds one is refused before it is kept or shown anywhere."""

from urllib.parse import parse_qsl, urlsplit

from beft.errors import InputError

INSTEAD = (
    "leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or PGPASSWORD for "
    "PostgreSQL"
)
"""What to do with a password instead of writing it into an address."""

_SECRETS = {"password", "passwd", "token", "sslpassword", "secret"}


def holds_password(address: str) -> bool:
    """Whether an address (of a server or a database) holds a password, before its host or in its query."""
    try:
        parts = urlsplit(address)
        return bool(parts.password) or any(name.lower() in _SECRETS for name, _ in parse_qsl(parts.query))
    except ValueError:
        return "@" in address  # what cannot be read is not shown


def require_no_password(address: str, where: str) -> None:
    """Make sure that an address can be kept and shown.

    Args:
        where: Its setting or variable.

    Raises:
        InputError: It holds a password. The message does not.
    """
    if holds_password(address):
        raise InputError(f"{where} holds a password, and addresses are kept with every run and shown; {INSTEAD}")
