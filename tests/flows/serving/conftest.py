"""A registry with adapters over a tiny base, and a server of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from beft.adapters.adapter import Adapter
from beft.models.reference import BaseReference
from beft.serving.engine import Engine
from beft.serving.service import Service
from benchmarks.common.served import canary_of, register_adapter
from flows.serving.app import Server, create_app
from flows.serving.limits import Limits
from flows.serving.metrics import Metrics
from flows.serving.tokens import Tokens
from flows.serving.updater import Updater
from tasks.serving.registry_source import RegistrySource
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect
from tests.beft.serving.adapters import CHOICES, COMPUTE, REGRESSION, Kind, draw_adapter, tiny_base

KINDS = {
    "beft-tiny-films": Kind(),
    "beft-tiny-three": Kind(("x", "y", "z"), ("query",), seed=1),
    "beft-tiny-score": REGRESSION,
    "beft-tiny-choice": CHOICES,
}


@dataclass
class Registry:
    """A project's registry, and the adapters in it by name and version."""

    root: Path
    base: BaseReference
    connection: Connection
    adapters: dict[tuple[str, str], Adapter]

    def add(self, name: str, kind: Kind, *, alias: str | None = "champion", canary: bool = True) -> str:
        """Register one more version; its number."""
        adapter = draw_adapter(self.base, kind)
        folder = self.root / "adapters" / f"{len(self.adapters)}"
        adapter.save(folder)
        of = canary_of(folder, self.base.folder) if canary else None
        version = register_adapter(self.connection, name, folder, canary=of, alias=alias)
        self.adapters[name, version] = adapter
        return version


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    settings = PipelineSettings()
    return Registry(tmp_path, tiny_base(tmp_path / "base"), connect(settings, tmp_path), {})


@pytest.fixture
def filled(registry: Registry) -> Registry:
    for name, kind in KINDS.items():
        registry.add(name, kind)
    return registry


@dataclass
class Running:
    """A server in this process."""

    server: Server
    updater: Updater
    client: TestClient

    @property
    def engine(self) -> Engine:
        return self.server.service.engines[0]


def running(registry: Registry, *, limits: Limits = Limits(), tokens: Tokens = Tokens()) -> Running:  # noqa: B008
    """A server of what a registry has."""
    metrics = Metrics()
    service = Service([Engine(registry.base, replace(COMPUTE))], on_batch=metrics.count_batch)
    updater = Updater(service, RegistrySource(registry.connection, ("beft-*",), ("champion", "challenger")))
    updater.update()
    server = Server(service, limits=limits, tokens=tokens, metrics=metrics, updater=updater)
    return Running(server, updater, TestClient(create_app(server), base_url="http://127.0.0.1"))


@pytest.fixture
def app(filled: Registry) -> Iterator[Running]:
    found = running(filled)
    yield found
    found.server.close()
