"""The aliases of a registered model: moved together, written to the journal before, and finished after a crash.

``challenger`` is the version that came last, ``champion`` the one in use, ``previous`` the champion before it. One
process at a time decides on a model's aliases; another one is refused and told who does.

Every set of moves has a sequence number, which the registry holds and which is read again before each single move:
moves that others have overtaken are given up, whether their process lost its lease or died and was started again.
"""

import fcntl
import json
import logging
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beft.errors import InputError
from beft.files import sha256_json
from beft.names import unknown_name
from tasks.engine.declaration import JSON
from tasks.registry.journal import append_entry, journal_path, read_journal
from tasks.registry.lease import Lease, RegistryBusyError, busy, process_label
from tasks.tracking.connection import Connection, every, uri_of_project, versions_of
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT

log = logging.getLogger(__name__)

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
MOVES, MOVED, GIVEN_UP = "alias moves", "alias moves done", "alias moves given up"
"""The kinds of journal entries: before aliases are moved, after that, or when they are not since others came first."""

ROLLED_BACK = "rolled_back"
"""The tag of a version that a rollback took out of use, with the time and the reason: it stays ``challenger``, and no
promotion makes it champion again unless it is named."""

_POSITION = "alias_moves"
"""The tag of a registered model that names the last set of moves: its sequence number and its journal entry."""
_LOOK_AGAIN = 0.3  # seconds


@dataclass(frozen=True)
class _Position:
    """Which set of moves of a model came last.

    Attributes:
        sequence: How many there were; 0 also for a model that only older versions of beft have moved.
        entry: The id of the journal entry of the last one.
    """

    sequence: int = 0
    entry: str = ""


class Turn:
    """The right to move the aliases of a model, from when they were read to when they are moved.

    Attributes:
        aliases: Alias to version, as they are at the beginning.
    """

    def __init__(self, connection: Connection, name: str, root: Path, lease: Lease) -> None:
        self.name, self.journal, self.lease = name, journal_path(root), lease
        self._connection = connection
        self._registry, self._is_own = _registry(connection, name, root), connection.uri == uri_of_project(root)
        self._position = _position(connection, name)
        self.aliases = aliases_of(connection, name)

    def move(self, moves: Mapping[str, str | None], *, subject: JSON, reason: str) -> None:
        """Move aliases; what is moved where, and why, is on the disk before the first one moves.

        Args:
            moves: Alias to the version that it names from now on; None takes the alias away. Aliases that are there
                already are left out.
            subject: What makes these moves these and no others: a JSON value.

        Raises:
            RegistryBusyError: Another process moved aliases of this model since the turn began.
        """
        there = aliases_of(self._connection, self.name)
        changes = {alias: {"from": there.get(alias), "to": to} for alias, to in moves.items() if there.get(alias) != to}
        if not changes:
            return
        sequence = self._position.sequence + 1
        facts = {"model": self.name, "moves": changes, "sequence": sequence, "reason": reason, "who": process_label()}
        entry = append_entry(self.journal, MOVES, [subject, sequence, self._registry], **facts, registry=self._registry)
        self._apply(_Position(sequence, entry), changes)

    def finish_moves(self) -> list[str]:
        """Make the moves that were written down and never reported as made; the ids of their entries.

        Those of a process that died, and whose aliases others have moved since, are given up, also where the aliases
        look as they did before. An alias that was moved by hand since is left where it is. Those that were to be made
        in another registry, or on a model of this name that was deleted since, are left alone.
        """
        entries = [entry for entry in read_journal(self.journal) if entry.get("model") == self.name]
        closed = {entry.get("of") for entry in entries if entry.get("kind") in (MOVED, GIVEN_UP)}
        here = [entry for entry in entries if _is_of(entry, self._registry, unknown=self._is_own)]
        pending = [entry for entry in here if entry.get("kind") == MOVES and entry["id"] not in closed]
        for entry in pending:
            position = _Position(int(entry.get("sequence", 1)), str(entry["id"]))
            if self._position not in (position, _Position(position.sequence - 1, self._position.entry)):
                log.warning("moves of %s that were never finished are given up: others came after them", self.name)
                append_entry(self.journal, GIVEN_UP, entry["id"], model=self.name, of=entry["id"])
                continue
            there = aliases_of(self._connection, self.name)
            still = {alias: move for alias, move in entry["moves"].items() if there.get(alias) == move["from"]}
            self._apply(position, still)
        self.aliases = aliases_of(self._connection, self.name)
        return [str(entry["id"]) for entry in pending]

    def _apply(self, position: _Position, changes: Mapping[str, Mapping[str, str | None]]) -> None:
        client = self._connection.client
        if position != self._position:
            self._require(self._position)
            client.set_registered_model_tag(self.name, _POSITION, json.dumps(vars(position)))
            self._position = position
        # The champion moves last: whoever asks for it in between gets the old one, whole.
        for alias in sorted(changes, key=lambda alias: alias == CHAMPION):
            self._require(position)
            to = changes[alias]["to"]
            if to is None:
                client.delete_registered_model_alias(self.name, alias)
            else:
                client.set_registered_model_alias(self.name, alias, to)
        append_entry(self.journal, MOVED, position.entry, model=self.name, of=position.entry)

    def _require(self, position: _Position) -> None:
        """Make sure that this process still decides, and that no other one has moved anything since."""
        self.lease.require()
        if _position(self._connection, self.name) != position:
            raise RegistryBusyError(
                f"the aliases of {self.name} were moved by another process meanwhile; nothing more was moved: ask again"
            )


def _registry(connection: Connection, name: str, root: Path) -> list[JSON]:
    """Which registry, and which model of that name: one that was deleted and made again is another one.

    The database inside the project has no address, since the project can be moved.
    """
    address = None if connection.uri == uri_of_project(root) else connection.uri
    return [address, connection.client.get_registered_model(name).creation_timestamp]


def _is_of(entry: Mapping[str, JSON], registry: JSON, *, unknown: bool) -> bool:
    """Whether an entry is about a model of this registry.

    Args:
        unknown: What is said of an entry of an older version of beft, which does not name its registry.
    """
    return bool(entry["registry"] == registry) if "registry" in entry else unknown


def _position(connection: Connection, name: str) -> _Position:
    tag = connection.client.get_registered_model(name).tags.get(_POSITION)
    try:
        return _Position(**json.loads(tag)) if tag else _Position()
    except (ValueError, TypeError):
        return _Position()


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
        known = [model.name for model in every(connection.client.search_registered_models)]
        raise InputError(unknown_name(name, known, "registered model")) from None
    return {alias: str(version) for alias, version in found.aliases.items()}


@contextmanager
def alias_lock(connection: Connection, name: str, root: Path, *, patience: float = 0.0) -> Iterator[Turn]:
    """Be the only process that decides on a model's aliases, and first finish what a dead one left half-done.

    In one workspace a lock in the file system holds, and goes away with its process. Between workspaces a tag of the
    registered model does (``tasks.registry.lease``).

    Args:
        patience: How many seconds to wait for another one.

    Raises:
        RegistryBusyError: Another process is deciding; the message names it.
        InputError: There is no such registered model.
    """
    aliases_of(connection, name)
    deadline = time.monotonic() + patience
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(_locked(connection, name, root))
                break
            except RegistryBusyError as error:
                if time.monotonic() >= deadline:
                    raise
                log.info("%s; waiting", error)
            time.sleep(_LOOK_AGAIN * (1 + random.random()))  # two that wait do not meet again
        lease = Lease(connection, name)
        stack.enter_context(lease.held(max(0.0, deadline - time.monotonic())))
        turn = Turn(connection, name, root, lease)
        turn.finish_moves()
        yield turn


@contextmanager
def _locked(connection: Connection, name: str, root: Path) -> Iterator[None]:
    """Hold the lock of this workspace on a model.

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
            raise RegistryBusyError(busy(name, file.read().strip() or "a process that has just begun")) from None
        file.truncate(0)
        file.write(process_label())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def rollback(connection: Connection, root: Path, name: str, *, to: str | None = None, reason: str = "") -> str:
    """Make the champion before the last one champion again, or the version ``to``; the version that it is now.

    The version that loses the alias becomes ``previous`` and gets the tag ``ROLLED_BACK``, the other one loses it: a
    second rollback undoes the first.

    Raises:
        InputError: There is no such model or version, or nothing to go back to.
        RegistryBusyError: Another process is deciding.
    """
    with alias_lock(connection, name, root) as turn:
        champion, target = turn.aliases.get(CHAMPION), to or turn.aliases.get(PREVIOUS)
        versions = {str(version.version) for version in versions_of(connection, name)}
        if target is None:
            raise InputError(f"{name} has no previous champion to go back to; name a version: --to VERSION")
        if target not in versions:
            raise InputError(unknown_name(target, versions, f"version of {name}"))
        if target == champion:
            raise InputError(f"version {target} of {name} is champion already")
        # Before the aliases: of a rollback that is cut short, the next command finishes the moves alone.
        if champion in versions:
            said = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC" + (f": {reason}" if reason else "")
            connection.client.set_model_version_tag(name, champion, ROLLED_BACK, as_mlflow_text(said, REGISTRY_TEXT))
        connection.client.delete_model_version_tag(name, target, ROLLED_BACK)
        turn.move(
            {CHAMPION: target, PREVIOUS: champion},
            subject=["rollback", name, champion, target, str(uuid.uuid4())],
            reason=reason or f"rolled back from version {champion or 'none'}",
        )
        return target


def history(connection: Connection, root: Path, name: str) -> list[dict[str, Any]]:
    """What happened to a model's aliases and on its gate splits, oldest first, from the journal.

    Raises:
        InputError: There is no such registered model.
    """
    aliases_of(connection, name)
    registry = _registry(connection, name, root)
    entries = [entry for entry in read_journal(journal_path(root)) if entry.get("model") == name]
    entries = [entry for entry in entries if _is_of(entry, registry, unknown=True)]
    made, given_up = ({entry.get("of") for entry in entries if entry.get("kind") == kind} for kind in (MOVED, GIVEN_UP))
    return [
        {**entry, "finished": entry["id"] in made, "given_up": entry["id"] in given_up}
        if entry.get("kind") == MOVES
        else entry
        for entry in entries
        if entry.get("kind") not in (MOVED, GIVEN_UP)
    ]
