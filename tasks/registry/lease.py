"""The lease on a registered model: a tag of it, by which one process at a time decides on the model's aliases.

No clock is compared with that of another machine. The holder writes its tag anew every few seconds; whoever wants it
takes it over when the holder's process has ended, as far as this machine can know that, or when the tag has stood
unchanged for a minute of watching. MLflow's tags have no compare-and-set, so two can believe to hold it for a moment:
the tag is read again before each move, and the one whose tag is gone stops.
"""

import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beft.errors import BeftError
from tasks.engine.workspace import HIDDEN, process_start
from tasks.tracking.connection import Connection

log = logging.getLogger(__name__)

HOLDER = "aliases_held_by"
"""The tag of a registered model by which other workspaces and machines see who decides on its aliases."""

BEAT_SECONDS = 5.0
"""How often the holder writes its tag anew."""

LEASE_SECONDS = 60.0
"""How long a tag is watched without a change before its holder counts as gone."""

SETTLE_SECONDS = 0.3
"""How long a tag must have stood before whoever wrote it holds it: of two that wrote at once, the last one has it.

In a database on this machine, which answers at once, a tenth of it.
"""

_held_here: set[str] = set()  # the leases of this process


class RegistryBusyError(BeftError):
    """Another process decides on this model's aliases."""


class Lease:
    """The lease on a model, held by this process."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._client, self._name, self._id = connection.client, name, str(uuid.uuid4())
        self._settle = SETTLE_SECONDS / 10 if connection.uri.startswith("sqlite:") else SETTLE_SECONDS
        self._beats = 0
        self._writing, self._ended = threading.Lock(), threading.Event()

    def require(self) -> None:
        """Make sure that this process still holds it.

        Raises:
            RegistryBusyError: Another process took it over, since this one did not show itself for too long.
        """
        tag = self._client.get_registered_model(self._name).tags.get(HOLDER)
        if _read(tag).get("id") != self._id:
            raise RegistryBusyError(busy(self._name, _who(tag)))

    @contextmanager
    def held(self, patience: float) -> Iterator[None]:
        """Hold it for the length of the block.

        Raises:
            RegistryBusyError: Another process holds it, and is at work.
        """
        self._take(patience)
        _held_here.add(self._id)
        beating = threading.Thread(target=self._beat, name=f"lease on {self._name}", daemon=True)
        beating.start()
        try:
            yield
        finally:
            _held_here.discard(self._id)
            self._ended.set()
            self._give_back()

    def _take(self, patience: float) -> None:
        watch = _Watch()
        deadline = time.monotonic() + patience
        told = False
        while True:
            tag = self._client.get_registered_model(self._name).tags.get(HOLDER)
            if tag is None or _has_ended(tag) or watch.seconds_unchanged(tag) >= LEASE_SECONDS:
                self._write()
                time.sleep(self._settle)
                tag = self._client.get_registered_model(self._name).tags.get(HOLDER)
                if _read(tag).get("id") == self._id:
                    return
                watch.seconds_unchanged(tag)
            if (watch.changed or _lives_here(tag)) and time.monotonic() >= deadline:
                raise RegistryBusyError(busy(self._name, _who(tag)))
            if not told:
                log.info("%s; waiting", busy(self._name, _who(tag)))
                told = True
            time.sleep(SETTLE_SECONDS * (1 + random.random()))  # two that wait do not meet again

    def _write(self) -> None:
        self._beats += 1
        pid = os.getpid()
        value = {
            **_this_system(),
            "who": process_label(),
            "pid": pid,
            "process_start": process_start(pid),
            "time": time.time(),  # for versions of beft that read it; this one does not
            "beat": self._beats,
            "id": self._id,
        }
        self._client.set_registered_model_tag(self._name, HOLDER, json.dumps(value))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                with self._writing:
                    if self._ended.is_set():
                        return
                    self.require()
                    self._write()
            except RegistryBusyError:
                return  # the block finds out before its next move
            except Exception as error:
                log.debug("the lease on %s could not be renewed: %s", self._name, error)

    def _give_back(self) -> None:
        with self._writing:
            try:
                self.require()
                self._client.delete_registered_model_tag(self._name, HOLDER)
            except RegistryBusyError:
                pass
            except Exception as error:  # what was decided is done; the tag lapses by itself
                log.warning("the lease on %s could not be given back: %s", self._name, error)


class _Watch:
    """How long a tag has stood unchanged, by this process's own clock."""

    def __init__(self) -> None:
        self._tag: str | None = None
        self._last: float | None = None
        self._seconds = 0.0
        self.changed = False
        """Whether a holder was seen at work."""

    def seconds_unchanged(self, tag: str | None) -> float:
        """Look at the tag; a time in which it could not be read, since the server was away, hardly counts."""
        now = time.monotonic()
        if self._last is not None and tag != self._tag:
            self._seconds, self.changed = 0.0, True
        elif self._last is not None:
            self._seconds += min(now - self._last, 1.0)
        self._tag, self._last = tag, now
        return self._seconds


def _read(tag: str | None) -> dict[str, Any]:
    try:
        value = json.loads(tag or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _who(tag: str | None) -> str:
    return str(_read(tag).get("who") or "another process")


def _has_ended(tag: str) -> bool:
    """Whether the holder's process is known to have ended; one on another machine or in a container cannot be asked."""
    value = _read(tag)
    return "id" not in value or (_is_here(value) and _runs(value) is False)


def _lives_here(tag: str | None) -> bool:
    value = _read(tag)
    return _is_here(value) and _runs(value) is True


def _is_here(value: dict[str, Any]) -> bool:
    """Whether the numbers of processes mean the same where the tag was written as here."""
    here = _this_system()
    return here["processes"] is not None and all(value.get(key) == of for key, of in here.items())


def _runs(value: dict[str, Any]) -> bool | None:
    """Whether the holder's process runs; None: it cannot be known here."""
    try:
        pid = int(value["pid"])
        if pid == os.getpid():
            return value["id"] in _held_here
        started = process_start(pid)
        if started is not None and HIDDEN in (started, value["process_start"]):
            return None
        return bool(started == value["process_start"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _this_system() -> dict[str, str | None]:
    """The host, and the kernel's boot and process namespace, in which a process number names one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        processes = f"{boot}:{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        processes = None
    return {"host": socket.gethostname(), "processes": processes}


def process_label() -> str:
    """This process, for people."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"


def busy(name: str, holder: str) -> str:
    """What is said to whoever comes second."""
    return f"{holder} is deciding on the aliases of {name}; wait until it has finished, then ask again"
