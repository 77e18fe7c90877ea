"""Which adapters are served under which names: one immutable snapshot, replaced as a whole."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from beft.errors import InputError
from beft.serving.served_adapter import ServedAdapter


class UnknownAdapterError(InputError):
    """A request names an adapter that is not served."""


@dataclass(frozen=True, eq=False)
class Served:
    """An adapter with its names.

    Attributes:
        name: Of the registered model.
        version: Of the registered model; "" for one that is served from a folder.
        aliases: That name this version, of those that are served.
        adapter: In the tables of its engine.
        engine: The number of its engine.
        since: When it was loaded, seconds since the epoch.
        verified: Whether its canary was replayed; False where it has none.
        dataset: What it was trained on.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    adapter: ServedAdapter
    engine: int
    since: float
    verified: bool
    dataset: str = ""

    def with_aliases(self, aliases: tuple[str, ...]) -> "Served":
        """The same under other aliases."""
        return self if aliases == self.aliases else replace(self, aliases=aliases)


class Directory:
    """A snapshot of what is served.

    Args:
        served: The adapters.
        order: The aliases by rank: a bare name means the version with the first one.
    """

    def __init__(self, served: Iterable[Served] = (), order: Iterable[str] = ()) -> None:
        self.served = tuple(sorted(served, key=lambda one: (one.name, _number(one.version))))
        self.order = tuple(order)
        by_name: dict[str, dict[str, Served]] = {}
        for one in self.served:
            names = by_name.setdefault(one.name, {})
            names[f"/{one.version}"] = one
            for alias in one.aliases:
                names[f"@{alias}"] = one
        self._by_name: Mapping[str, Mapping[str, Served]] = MappingProxyType(by_name)

    def __len__(self) -> int:
        return len(self.served)

    def find(self, name: str, version: str | None = None) -> Served:
        """The adapter of a name: ``NAME``, ``NAME@ALIAS`` or ``NAME/VERSION``, with ``models:/`` before it or not.

        Args:
            version: A version or alias that is named apart.

        Raises:
            UnknownAdapterError: Nothing of this name is served; the message has the nearest name.
        """
        name = name.removeprefix("models:/")
        if version is None:
            for mark in "@/":
                plain, found, rest = name.rpartition(mark)
                if found and plain in self._by_name:
                    return self._of(plain, rest)
        return self._of(name, version)

    def _of(self, name: str, version: str | None) -> Served:
        versions = self._by_name.get(name)
        if versions is None:
            raise UnknownAdapterError(self._unknown(name))
        if version is None:
            ranked = [versions[f"@{alias}"] for alias in self.order if f"@{alias}" in versions]
            return ranked[0] if ranked else list(versions.values())[-1]
        found = versions.get(f"/{version}") or versions.get(f"@{version}")
        if found is None:
            known = ", ".join(sorted(names.lstrip("/") for names in versions))
            raise UnknownAdapterError(f"{name} is not served as {version!r}; it is served as {known}")
        return found

    def _unknown(self, name: str) -> str:
        nearest = difflib.get_close_matches(name, list(self._by_name), n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        return f"no adapter is served as {name!r}.{hint} GET /v1/adapters lists the {len(self._by_name)} names"


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdecimal() else (0, version)
