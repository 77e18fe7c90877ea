"""What is served follows the registry: a moved alias is live within seconds, and no request sees half a change."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from beft.adapters.adapter import Adapter
from beft.errors import BeftError, InputError
from beft.serving.canary import Canary
from beft.serving.directory import Directory, Served
from beft.serving.service import Service
from tasks.serving.registry_source import RegistrySource, VersionKey

log = logging.getLogger("beft.serving")

_AT_ONCE = 64
"""Adapters that are read and loaded together."""


@dataclass(frozen=True)
class UpdateReport:
    """What one look at the registry changed.

    Attributes:
        loaded: Versions that are new.
        dropped: Versions that are served no more.
        refused: Versions that cannot be served, each with the reason.
    """

    loaded: Sequence[str] = ()
    dropped: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Updater:
    """Keeps the directory of a service equal to a registry.

    A version that is refused is not tried again until it is named anew. Where an alias moves to a version that is
    refused, the version before it stays under that alias, with its own version in every answer.

    Attributes:
        failing: Why the registry could not be read the last time; None: it was read.
        refused: Versions that are not served, each with the reason.
    """

    def __init__(self, service: Service, source: RegistrySource) -> None:
        self.service, self.source = service, source
        self.failing: str | None = None
        self.refused: dict[VersionKey, str] = {}
        self._served: dict[VersionKey, Served] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def update(self, *, progress: Callable[[int, int], None] = lambda done, of: None) -> UpdateReport:
        """Look at the registry once and bring the directory up to date.

        Args:
            progress: Called with the number of versions that are read, and of all new ones.

        Raises:
            BeftError: The registry cannot be read; what is served stays as it is.
        """
        with self._lock:
            try:
                wanted = self.source.poll()
            except BeftError as error:
                self.failing = str(error)
                raise
            self.failing = None
            self.refused = {key: reason for key, reason in self.refused.items() if key in wanted}
            new = [key for key in wanted if key not in self._served and key not in self.refused]
            loaded, refused = self._load(new, wanted, progress)
            self.refused |= refused
            before = set(self._served)
            self._served = self._keep(wanted) | loaded
            self.service.directory = Directory(self._served.values(), self.source.aliases)
            dropped = sorted(_name(key) for key in before - set(self._served))
        for key, reason in refused.items():
            log.warning("%s is not served: %s", _name(key), reason)
        if new and len(new) <= _AT_ONCE:
            log.info("now served: %s", ", ".join(sorted(_name(key) for key in loaded)) or "nothing new")
        if dropped:
            log.info("no longer served: %s", ", ".join(dropped))
        return UpdateReport(
            sorted(map(_name, loaded)), dropped, {_name(key): reason for key, reason in refused.items()}
        )

    def retry(self) -> UpdateReport:
        """The same, and try again what was refused."""
        with self._lock:
            self.refused = {}
        return self.update()

    @contextmanager
    def running(self, every: float) -> Iterator[None]:
        """Look again and again in a thread of its own, within the context.

        Args:
            every: Seconds between two looks.
        """
        thread = threading.Thread(target=self._run, args=(every,), name="beft-updater", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(10)

    def _run(self, every: float) -> None:
        while not self._stop.wait(every):
            told = self.failing
            try:
                self.update()
                if told:
                    log.info("the registry answers again")
            except BeftError as error:
                if told is None:
                    log.warning("the registry cannot be read, what is served stays: %s", error)
            except Exception:  # the thread must live on
                log.exception("the update failed, what is served stays")

    def _keep(self, wanted: Mapping[VersionKey, tuple[str, ...]]) -> dict[VersionKey, Served]:
        """Those of the served versions that stay, with the aliases that they have now."""
        kept = {key: one.with_aliases(wanted[key]) for key, one in self._served.items() if key in wanted}
        for key, aliases in wanted.items():
            if key not in self.refused:
                continue
            for old, one in self._served.items():
                still = tuple(alias for alias in one.aliases if alias in aliases)
                if still and (old.name, old.created) == (key.name, key.created):
                    kept[old] = one.with_aliases(
                        tuple(dict.fromkeys((*kept[old].aliases, *still)) if old in kept else still)
                    )
        return kept

    def _load(
        self,
        keys: Sequence[VersionKey],
        wanted: Mapping[VersionKey, tuple[str, ...]],
        progress: Callable[[int, int], None],
    ) -> tuple[dict[VersionKey, Served], dict[VersionKey, str]]:
        loaded: dict[VersionKey, Served] = {}
        refused: dict[VersionKey, str] = {}
        for start in range(0, len(keys), _AT_ONCE):
            read: dict[VersionKey, tuple[Adapter, Canary | None]] = {}
            for key in keys[start : start + _AT_ONCE]:
                try:
                    read[key] = self._read(key)
                except BeftError as error:
                    refused[key] = str(error)
            adapters = [adapter for adapter, _ in read.values()]
            if start == 0 and adapters:  # the others will be much like these
                self.service.reserve([adapters[at % len(adapters)] for at in range(len(keys))])
            found = self.service.load(adapters, [canary for _, canary in read.values()])
            for key, one in zip(read, found, strict=True):
                if isinstance(one, InputError):
                    refused[key] = str(one)
                    continue
                loaded[key] = Served(
                    name=key.name,
                    version=key.version,
                    aliases=wanted[key],
                    adapter=one.adapter,
                    engine=one.engine,
                    since=time.time(),
                    verified=one.verified,
                    dataset=read[key][0].dataset,
                )
            progress(min(start + _AT_ONCE, len(keys)), len(keys))
        return loaded, refused

    def _read(self, key: VersionKey) -> tuple[Adapter, Canary | None]:
        with self.source.files(key) as files:
            adapter = Adapter.load(files.adapter)
            if files.sha256 is not None and files.sha256 != adapter.sha256:
                raise InputError(
                    f"its tensor file has the sha256 {adapter.sha256[:12]}, the registry says {files.sha256[:12]}"
                )
            return adapter, None if files.canary is None else Canary.read(files.canary)


def _name(key: VersionKey) -> str:
    return f"{key.name} version {key.version}"
