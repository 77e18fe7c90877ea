"""Limits, tokens, health, metrics and the list of adapters."""

import asyncio
import json
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from beft import __version__
from beft.adapters.adapter import Adapter
from beft.errors import InputError
from benchmarks.common.served import register_adapter
from flows.serving.app import create_app
from flows.serving.limits import Limits
from flows.serving.tokens import ADMINISTRATION, ANSWERS, Tokens
from tests.flows.serving.conftest import KINDS, Registry, Running, running
from tests.support.servers.postgresql import free_port
from tests.support.waiting import wait_until

FILMS = "beft-tiny-films"
ASKED = {"inputs": ["fine"], "params": {"adapter": FILMS}}


def value_of(app: Running, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(app.client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_health(app: Running, registry: Registry) -> None:
    assert [
        app.client.get(path).status_code for path in ("/ping", "/health", "/v2/health/live", "/v2/health/ready")
    ] == [200] * 4
    assert app.client.get("/version").text == __version__
    assert app.client.get("/docs").status_code == 200
    assert "beft serve" in app.client.get("/").text


def test_without_an_adapter_it_is_alive_and_not_ready(registry: Registry) -> None:
    app = running(registry)
    assert [app.client.get(path).status_code for path in ("/ping", "/v2/health/live", "/v2/health/ready")] == [
        503,
        200,
        503,
    ]
    app.server.close()


def test_the_list_of_adapters(app: Running, filled: Registry) -> None:
    found = app.client.get("/v1/adapters").json()
    assert [one["name"] for one in found["adapters"]] == sorted(KINDS)
    films = next(one for one in found["adapters"] if one["name"] == FILMS)
    assert (films["version"], films["aliases"], films["verified"]) == ("1", ["champion"], True)
    assert films["sha256"] == filled.adapters[FILMS, "1"].sha256
    assert films["labels"] == ["bad", "good"]
    assert found["refused"] == [] and found["registry_error"] is None


def test_what_cannot_be_served_is_listed_with_its_reason(filled: Registry) -> None:
    folder = filled.root / "adapters" / "0"
    other = replace(Adapter.load(folder), base_sha256="f" * 64)
    other.save(filled.root / "other")
    register_adapter(filled.connection, "beft-elsewhere", filled.root / "other")
    app = running(filled)
    [refused] = app.client.get("/v1/adapters").json()["refused"]
    assert refused["name"] == "beft-elsewhere" and "--base" in refused["reason"]
    assert app.client.post("/invocations", json={**ASKED, "params": {"adapter": "beft-elsewhere"}}).status_code == 404
    app.server.close()


def test_a_large_body_is_refused(filled: Registry) -> None:
    app = running(filled, limits=Limits(body=100))
    response = app.client.post("/invocations", json={**ASKED, "inputs": ["x" * 200]})
    assert response.status_code == 413 and "100 bytes" in response.json()["error"]

    def stream() -> Any:
        yield b'{"inputs": ["'
        yield b"x" * 200

    assert app.client.post("/invocations", content=stream()).status_code == 413
    app.server.close()


def test_too_many_requests_at_once_are_refused(filled: Registry) -> None:
    app = running(filled, limits=Limits(requests=1))
    with app.server.admission.admitted():
        response = app.client.post("/invocations", json=ASKED)
    assert response.status_code == 429 and response.headers["Retry-After"] == "1"
    assert app.client.post("/invocations", json=ASKED).status_code == 200
    app.server.close()


def test_a_server_that_stops_refuses_what_comes(app: Running) -> None:
    app.server.admission.draining = True
    response = app.client.post("/invocations", json=ASKED)
    assert response.status_code == 503 and "Retry-After" in response.headers
    assert app.client.get("/v2/health/ready").status_code == 503


def test_a_request_that_waits_too_long_is_told(filled: Registry) -> None:
    app = running(filled, limits=Limits(seconds=0.05))
    held, release = threading.Event(), threading.Event()
    compute = app.engine.outputs

    def slow(rows: Any) -> Any:
        held.set()
        release.wait(10)
        return compute(rows)

    app.engine.outputs = slow  # type: ignore[method-assign]
    first = threading.Thread(target=lambda: app.client.post("/invocations", json=ASKED))
    first.start()
    held.wait(10)
    threading.Timer(0.3, release.set).start()
    response = app.client.post("/invocations", json=ASKED)
    first.join()
    assert response.status_code == 504
    app.server.close()


def test_a_client_that_goes_away_is_not_computed_for(app: Running) -> None:
    held, release, computed = threading.Event(), threading.Event(), []
    compute = app.engine.outputs

    def slow(rows: Any) -> Any:
        held.set()
        release.wait(20)
        computed.append(len(rows))
        return compute(rows)

    app.engine.outputs = slow  # type: ignore[method-assign]
    port = free_port()
    config = uvicorn.Config(create_app(app.server), host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run)
    serving.start()
    wait_until(lambda: server.started)
    body = json.dumps(ASKED).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as stays, socket.create_connection(("127.0.0.1", port)) as goes:
        stays.sendall(head + body)
        held.wait(20)
        goes.sendall(head + body)
        wait_until(lambda: app.server.service.waiting == 1)
        goes.close()
        wait_until(lambda: value_of(app, "beft_requests_total", protocol="mlflow", status="499") == 1)
        release.set()
        assert b"200 OK" in stays.recv(1000)
    server.should_exit = True
    serving.join(20)
    assert computed == [1]


def test_a_client_that_goes_away_within_its_body_is_no_fault(app: Running, caplog: pytest.LogCaptureFixture) -> None:
    messages = [{"type": "http.request", "body": b'{"inputs"', "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/invocations"},
        **{"query_string": b"", "headers": [(b"host", b"127.0.0.1")], "server": ("127.0.0.1", 80)},
    }
    asyncio.run(create_app(app.server)(scope, receive, send))
    assert value_of(app, "beft_requests_total", protocol="mlflow", status="499") == 1
    assert "inside beft" not in caplog.text


def test_metrics_count_and_hold_nothing_of_a_client(app: Running) -> None:
    app.client.post("/invocations", json=ASKED)
    app.client.post("/invocations", json={**ASKED, "inputs": ["fine", " ".join(["film"] * 40)]})
    series = len(app.client.get("/metrics").text.splitlines())
    for number in range(50):
        app.client.post("/invocations", json={**ASKED, "params": {"adapter": f"nothing-{number}"}})
    assert value_of(app, "beft_requests_total", protocol="mlflow", status="200") == 2
    assert value_of(app, "beft_requests_total", protocol="mlflow", status="404") == 50
    assert value_of(app, "beft_rows_total") == 3
    assert value_of(app, "beft_rows_truncated_total") == 1
    assert value_of(app, "beft_adapters") == len(KINDS)
    assert value_of(app, "beft_tokens_padded_total") >= value_of(app, "beft_tokens_total") > 0
    text = app.client.get("/metrics").text
    assert "nothing-" not in text and "fine" not in text
    assert len(text.splitlines()) <= series + 2  # one more status, however many names


@pytest.mark.parametrize(
    ("method", "path", "administration"),
    [
        ("POST", "/invocations", False),
        ("POST", f"/v2/models/{FILMS}/infer", False),
        ("GET", f"/v2/models/{FILMS}", False),
        ("GET", "/v1/adapters", False),
        ("GET", "/metrics", True),
        ("POST", "/v1/reload", True),
    ],
)
def test_tokens(filled: Registry, method: str, path: str, administration: bool) -> None:
    app = running(filled, tokens=Tokens("a" * 16, "b" * 16))

    def status(token: str | None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return app.client.request(method, path, json=ASKED if method == "POST" else None, headers=headers).status_code

    assert status(None) == status("wrong") == 401
    assert (status("a" * 16) == 401) == administration
    assert status("b" * 16) != 401
    assert app.client.get("/ping").status_code == 200
    app.server.close()


def test_beyond_this_machine_tokens_are_needed() -> None:
    assert Tokens.for_host("127.0.0.1", {}) == Tokens()
    with pytest.raises(InputError, match=ANSWERS):
        Tokens.for_host("0.0.0.0", {})
    with pytest.raises(InputError, match=ADMINISTRATION):
        Tokens.for_host("0.0.0.0", {ANSWERS: "a" * 16})
    with pytest.raises(InputError, match="16 or more"):
        Tokens.for_host("127.0.0.1", {ANSWERS: "short"})
    known = Tokens.for_host("0.0.0.0", {ANSWERS: "a" * 16, ADMINISTRATION: "b" * 16})
    assert known == Tokens("a" * 16, "b" * 16)


def test_another_sites_name_is_refused(app: Running) -> None:
    assert app.client.get("/v1/adapters", headers={"Host": "evil.example"}).status_code == 400


def test_nothing_of_a_text_is_logged(app: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    app.client.post("/invocations", json={**ASKED, "inputs": ["touching story"]})
    app.client.post("/invocations", json={**ASKED, "inputs": ["touching story"], "params": {"adapter": "x"}})
    assert "touching" not in caplog.text
