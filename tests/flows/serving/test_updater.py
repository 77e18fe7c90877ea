"""What is served follows the registry, and no request meets half a change."""

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from beft.errors import BeftError
from beft.inference.questions import Questions
from beft.serving.service import Question
from tests.beft.serving.adapters import Kind, alone
from tests.flows.serving.conftest import Registry, running

FILMS = "beft-tiny-films"


def sha256(app: Any, name: str = FILMS) -> str:
    [answer] = app.server.service.answer([Question("fine", name)])
    return str(answer.served.adapter.sha256)


def test_a_moved_alias_is_followed(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = running(registry)
    second = registry.add(FILMS, Kind(seed=1), alias=None)
    app.updater.update()
    assert sha256(app) == registry.adapters[FILMS, "1"].sha256
    registry.connection.client.set_registered_model_alias(FILMS, "champion", second)
    report = app.updater.update()
    assert (list(report.loaded), list(report.dropped)) == ([f"{FILMS} version 2"], [f"{FILMS} version 1"])
    assert sha256(app) == registry.adapters[FILMS, "2"].sha256
    registry.connection.client.set_registered_model_alias(FILMS, "champion", "1")  # a rollback
    app.updater.update()
    assert sha256(app) == registry.adapters[FILMS, "1"].sha256
    app.server.close()


def test_challenger_and_champion_are_served_beside_each_other(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    registry.add(FILMS, Kind(seed=1), alias="challenger")
    app = running(registry)
    assert sha256(app) == registry.adapters[FILMS, "1"].sha256
    assert sha256(app, f"{FILMS}@challenger") == registry.adapters[FILMS, "2"].sha256
    registry.connection.client.set_registered_model_alias(FILMS, "champion", "2")
    app.updater.update()
    (one,) = app.server.service.directory.served
    assert one.aliases == ("champion", "challenger") and sha256(app) == registry.adapters[FILMS, "2"].sha256
    app.server.close()


def test_a_model_that_was_deleted_and_made_again_is_another_one(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = running(registry)
    before = sha256(app)
    registry.connection.client.delete_registered_model(FILMS)
    time.sleep(0.01)
    registry.add(FILMS, Kind(seed=3))
    app.updater.update()
    assert sha256(app) == registry.adapters[FILMS, "1"].sha256 != before
    registry.connection.client.delete_registered_model(FILMS)
    app.updater.update()
    with pytest.raises(BeftError, match="no adapter is served"):
        sha256(app)
    app.server.close()


def test_where_an_alias_moves_to_a_version_that_is_refused_the_one_before_stays(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    app = running(registry)
    version = registry.add(FILMS, Kind(seed=1), alias=None)
    registry.connection.client.set_model_version_tag(FILMS, version, "adapter_sha256", "0" * 64)
    registry.connection.client.set_registered_model_alias(FILMS, "champion", version)
    report = app.updater.update()
    assert "the registry says 000000000000" in report.refused[f"{FILMS} version 2"]
    assert sha256(app) == registry.adapters[FILMS, "1"].sha256
    assert app.updater.update().refused == {}  # it is told once
    registry.connection.client.set_model_version_tag(
        FILMS, version, "adapter_sha256", registry.adapters[FILMS, version].sha256
    )
    assert app.client.post("/v1/reload").json()["loaded"] == [f"{FILMS} version 2"]
    assert sha256(app) == registry.adapters[FILMS, "2"].sha256
    app.server.close()


def test_a_registry_that_cannot_be_read_changes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add(FILMS, Kind())
    app = running(registry)

    def fails() -> Any:
        raise BeftError("no MLflow server answers")

    with monkeypatch.context() as patched:
        patched.setattr(app.updater.source, "poll", fails)
        with pytest.raises(BeftError):
            app.updater.update()
        assert sha256(app) == registry.adapters[FILMS, "1"].sha256
        assert app.client.get("/v1/adapters").json()["registry_error"] == "no MLflow server answers"
        assert "beft_registry_up 0.0" in app.client.get("/metrics").text
    app.updater.update()
    assert "beft_registry_up 1.0" in app.client.get("/metrics").text
    app.server.close()


def test_other_models_of_the_registry_are_left_alone(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    registry.add("another", Kind(seed=1))
    app = running(registry)
    assert [one.name for one in app.server.service.directory.served] == [FILMS]
    app.server.close()


def test_answers_change_at_one_moment_while_clients_run(registry: Registry) -> None:
    """Every answer is wholly that of the version that it names, while the alias moves to and fro."""
    kinds = [Kind(), Kind(("bad", "good"), ("query", "value"), seed=1)]
    for kind in kinds:
        registry.add(FILMS, kind)
    expected = {
        version: alone(registry.base, registry.adapters[FILMS, version], Questions(["a good film"]))[0].softmax(-1)[0]
        for version in ("1", "2")
    }
    app = running(registry)
    stop, seen, failures = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                [answer] = app.server.service.answer([Question("a good film", FILMS)])
                seen.append(answer.served.version)
                found = torch.tensor(list(answer.predicted["probabilities"].values()), dtype=torch.float64)
                torch.testing.assert_close(found, expected[answer.served.version], rtol=0, atol=1e-5)
            except Exception as error:
                failures.append(error)

    clients = [threading.Thread(target=ask) for _ in range(4)]
    with app.updater.running(0.02):
        for client in clients:
            client.start()
        for move in range(8):
            time.sleep(0.15)
            registry.connection.client.set_registered_model_alias(FILMS, "champion", str(1 + move % 2))
        time.sleep(0.3)
        stop.set()
        for client in clients:
            client.join()
    assert not failures
    assert set(seen) == {"1", "2"}
    app.server.close()


def test_old_versions_without_a_canary_are_served_unverified(registry: Registry) -> None:
    registry.add(FILMS, Kind(), canary=False)
    app = running(registry)
    [one] = app.server.service.directory.served
    assert not one.verified
    app.server.close()


def test_memory_does_not_grow_with_updates(registry: Registry) -> None:
    registry.add(FILMS, Kind())
    registry.add(FILMS, replace(Kind(), seed=1), alias=None)
    app = running(registry)
    sizes = []
    for move in range(12):
        registry.connection.client.set_registered_model_alias(FILMS, "champion", str(1 + move % 2))
        app.updater.update()
        sizes.append(app.server.service.table_bytes)
    assert sizes[-1] == sizes[2]
    app.server.close()
