"""The aliases of a registered model: moved together, written to the journal before, and finished after a crash.

``challenger`` is the version that came last, ``champion`` the one in use, ``previous`` the champion before it. One
process at a time decides on a model's aliases; another one is refused and told who does.
"""

import fcntl
import json
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beft.errors import BeftError, InputError
from beft.files import sha256_json
from beft.names import unknown_name
from tasks.connection import Connection
from tasks.journal import enter, journal_of, read_journal
from tasks.step import JSON
from tasks.workspace import process_start

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
MOVES, MOVED = "alias moves", "alias moves done"
"""The kinds of journal entries before and after the aliases of a model are moved."""

_HOLDER = "aliases_held_by"
"""The tag of a registered model by which other workspaces and machines see who decides on its aliases."""
_LEASE_SECONDS = 1800.0
_SETTLE_SECONDS = 0.3


class RegistryBusyError(BeftError):
    """Another process decides on this model's aliases."""


def aliases_of(connection: Connection, name: str) -> dict[str, str]:
    """Alias to version.

    Raises:
        InputError: There is no such registered model; the message has the nearest name.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = connection.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [model.name for model in connection.client.search_registered_models()]
        raise InputError(unknown_name(name, known, "registered model")) from None
    return {alias: str(version) for alias, version in found.aliases.items()}


@contextmanager
def deciding(connection: Connection, name: str, root: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Be the only process that decides on a model's aliases, and first finish what a dead one left half-done.

    In one workspace a lock in the file system holds, and goes away with its process. Between workspaces a tag of the
    registered model does: on one machine for as long as its process lives, between machines for half an hour.

    Args:
        patience: How many seconds to wait for another one.

    Raises:
        RegistryBusyError: Another process is deciding; the message names it.
        InputError: There is no such registered model.
    """
    aliases_of(connection, name)
    deadline = time.monotonic() + patience
    while True:
        with ExitStack() as stack:
            try:
                stack.enter_context(_alone(connection, name, root))
            except RegistryBusyError as error:
                if time.monotonic() >= deadline:
                    raise
                log.info("%s; waiting", error)
            else:
                finish_moves(connection, journal_of(root), name)
                yield
                return
        time.sleep(_SETTLE_SECONDS * (1 + random.random()))  # two that wait do not meet again


@contextmanager
def _alone(connection: Connection, name: str, root: Path) -> Iterator[None]:
    """Hold the lock of this workspace and the tag of the registered model.

    Raises:
        RegistryBusyError: Another process does.
    """
    folder = root / "runs" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / sha256_json([connection.uri, name])[:16]).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "a process that has just begun"
            raise RegistryBusyError(_busy(name, holder)) from None
        file.truncate(0)
        file.write(_myself())
        file.flush()
        token = _take(connection, name)
        try:
            yield
        finally:
            file.truncate(0)
            if connection.client.get_registered_model(name).tags.get(_HOLDER) == token:
                connection.client.delete_registered_model_tag(name, _HOLDER)


def move_aliases(
    connection: Connection, journal: Path, name: str, moves: Mapping[str, str | None], *, subject: JSON, reason: str
) -> None:
    """Move aliases of a model; what is moved where, and why, is on the disk before the first one moves.

    Args:
        moves: Alias to the version that it names from now on; None takes the alias away. Aliases that are there
            already are left out.
        subject: What makes these moves these and no others: a JSON value.
    """
    there = aliases_of(connection, name)
    changes = {alias: {"from": there.get(alias), "to": to} for alias, to in moves.items() if there.get(alias) != to}
    if not changes:
        return
    entry = enter(journal, MOVES, subject, model=name, moves=changes, reason=reason, who=_myself())
    _apply(connection, journal, name, entry, changes)


def finish_moves(connection: Connection, journal: Path, name: str) -> list[str]:
    """Make the moves that were written down and never reported as made; the ids of their entries.

    An alias that was moved by somebody else since is left where it is.
    """
    entries = [entry for entry in read_journal(journal) if entry.get("model") == name]
    done = {entry.get("of") for entry in entries if entry.get("kind") == MOVED}
    pending = [entry for entry in entries if entry.get("kind") == MOVES and entry["id"] not in done]
    for entry in pending:
        there = aliases_of(connection, name)
        still = {alias: move for alias, move in entry["moves"].items() if there.get(alias) == move["from"]}
        _apply(connection, journal, name, entry["id"], still)
    return [str(entry["id"]) for entry in pending]


def rollback(connection: Connection, root: Path, name: str, *, to: str | None = None, reason: str = "") -> str:
    """Make the champion before the last one champion again, or the version ``to``; the version that it is now.

    The version that loses the alias becomes ``previous``, so that a second rollback undoes the first.

    Raises:
        InputError: There is no such model or version, or nothing to go back to.
        RegistryBusyError: Another process is deciding.
    """
    with deciding(connection, name, root):
        there = aliases_of(connection, name)
        champion, target = there.get(CHAMPION), to or there.get(PREVIOUS)
        versions = {str(version.version) for version in connection.client.search_model_versions(f"name = '{name}'")}
        if target is None:
            raise InputError(f"{name} has no previous champion to go back to; name a version: --to VERSION")
        if target not in versions:
            raise InputError(unknown_name(target, versions, f"version of {name}"))
        if target == champion:
            raise InputError(f"version {target} of {name} is champion already")
        why = reason or f"rolled back from version {champion or 'none'}"
        move_aliases(
            connection,
            journal_of(root),
            name,
            {CHAMPION: target, PREVIOUS: champion},
            subject=["rollback", name, champion, target, str(uuid.uuid4())],
            reason=why,
        )
        return target


def _apply(
    connection: Connection, journal: Path, name: str, entry: str, changes: Mapping[str, Mapping[str, str | None]]
) -> None:
    # The champion moves last: whoever asks for it in between gets the old one, whole.
    for alias in sorted(changes, key=lambda alias: alias == CHAMPION):
        to = changes[alias]["to"]
        if to is None:
            connection.client.delete_registered_model_alias(name, alias)
        else:
            connection.client.set_registered_model_alias(name, alias, to)
    enter(journal, MOVED, entry, model=name, of=entry)


def _take(connection: Connection, name: str) -> str:
    """Hold the model's tag; the token that stands in it."""
    client = connection.client
    held = _holder(client.get_registered_model(name).tags.get(_HOLDER))
    if held is not None:
        raise RegistryBusyError(_busy(name, held))
    pid = os.getpid()
    token = json.dumps(
        {
            "who": _myself(),
            "host": socket.gethostname(),
            "pid": pid,
            "process_start": process_start(pid),
            "time": time.time(),
            "id": str(uuid.uuid4()),
        }
    )
    client.set_registered_model_tag(name, _HOLDER, token)
    if not connection.uri.startswith("sqlite:"):
        time.sleep(_SETTLE_SECONDS)  # of two that wrote at once, the one that wrote last has it
    found = client.get_registered_model(name).tags.get(_HOLDER)
    if found != token:
        raise RegistryBusyError(_busy(name, _holder(found) or "another process"))
    return token


def _holder(tag: str | None) -> str | None:
    """Who holds a model, by its tag; nobody when that process has ended, or when the tag of another machine is old."""
    try:
        value = json.loads(tag or "")
        if value["host"] == socket.gethostname():
            pid = int(value["pid"])
            gone = pid == os.getpid() or process_start(pid) != value["process_start"]
        else:
            gone = not 0 <= time.time() - value["time"] < _LEASE_SECONDS
        return None if gone else str(value["who"])
    except (ValueError, KeyError, TypeError):
        return None


def _busy(name: str, holder: str) -> str:
    return f"{holder} is deciding on the aliases of {name}; wait until it has finished, then ask again"


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"


def history(connection: Connection, journal: Path, name: str) -> list[dict[str, Any]]:
    """What happened to a model's aliases and on its gate splits, oldest first, from the journal.

    Raises:
        InputError: There is no such registered model.
    """
    aliases_of(connection, name)
    entries = [entry for entry in read_journal(journal) if entry.get("model") == name]
    done = {entry.get("of") for entry in entries if entry.get("kind") == MOVED}
    return [
        {**entry, "finished": entry["id"] in done} if entry.get("kind") == MOVES else entry
        for entry in entries
        if entry.get("kind") != MOVED
    ]
