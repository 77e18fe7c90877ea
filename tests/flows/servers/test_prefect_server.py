"""A Prefect server that asks who is there before it says that it is well, as Prefect Cloud and proxies do."""

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

from beft.errors import BeftError
from beft.files import write_text
from flows.servers.prefect_server import at_server, server_address
from tests.support.dvc_workspace import PROJECT

ADDRESS = "http://127.0.0.1:9/api"
BASIC = f"Basic {base64.b64encode(b'ann:knows').decode()}"


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of a server that answers those alone who have a key or a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") in (BASIC, "Bearer pnu_key")
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"true" if known else b'{"detail": "Unauthorized"}')

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api"
    server.shutdown()
    server.server_close()


def test_it_answers_whoever_may_ask(guarded: str) -> None:
    with temporary_settings({PREFECT_API_URL: guarded, PREFECT_API_AUTH_STRING: "ann:knows"}):
        assert server_address() == guarded
    with temporary_settings({PREFECT_API_URL: guarded, PREFECT_API_KEY: "pnu_key"}):
        assert server_address() == guarded


def test_whoever_may_not_is_told_why(guarded: str) -> None:
    with (
        temporary_settings({PREFECT_API_URL: guarded}),
        pytest.raises(BeftError, match=r"does not let you in \(status 401\): set PREFECT_API_KEY"),
    ):
        server_address()


@pytest.mark.parametrize(
    ("files", "environment", "expected"),
    [
        ({}, {}, "'' False"),
        ({}, {"PREFECT_API_URL": ADDRESS}, f"{ADDRESS!r} True"),
        (
            {"home/profiles.toml": f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{ADDRESS}"\n'},
            {},
            f"{ADDRESS!r} True",
        ),
        ({"prefect.toml": f'[api]\nurl = "{ADDRESS}"\n'}, {}, f"{ADDRESS!r} True"),
        ({"pyproject.toml": f'[tool.prefect.api]\nurl = "{ADDRESS}"\n'}, {}, f"{ADDRESS!r} True"),
        ({".env": f"PREFECT_API_URL={ADDRESS}\n"}, {}, f"{ADDRESS!r} True"),
        ({"pyproject.toml": "[project]\n"}, {}, "'' False"),
    ],
    ids=["nothing", "variable", "profile", "prefect.toml", "pyproject.toml", ".env", "another pyproject.toml"],
)
def test_prefect_is_imported_only_where_something_may_name_a_server(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], expected: str
) -> None:
    for name, text in files.items():
        write_text(tmp_path / name, text)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    program = (
        "import sys\n"
        "from flows.servers.prefect_server import named_server\n"
        "print(repr(named_server()), 'prefect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(tmp_path / "home")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == expected, done.stderr


def test_a_temporary_server_that_does_not_start_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def start(self: object) -> None:
        raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

    monkeypatch.setattr("flows.servers.temporary_server.TemporaryServer.launch", lambda self: None)
    monkeypatch.setattr("flows.servers.temporary_server.TemporaryServer.start", start)
    monkeypatch.setattr("flows.servers.temporary_server.TemporaryServer.stop", lambda self: stopped.append(self))
    monkeypatch.setattr("flows.servers.prefect_server.named_server", lambda: "")
    monkeypatch.setattr(SubprocessASGIServer, "_instances", {})
    with pytest.raises(BeftError, match="temporary server did not start: Timed out"), at_server():
        pass
    assert stopped


def test_the_temporary_server_of_an_earlier_flow_is_used_and_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    touched = []
    monkeypatch.setattr("flows.servers.prefect_server.named_server", lambda: "")
    monkeypatch.setattr(SubprocessASGIServer, "_instances", {})
    for name in ("start", "stop"):
        monkeypatch.setattr(SubprocessASGIServer, name, lambda self: touched.append(self))
    of_prefect = SubprocessASGIServer()

    def refuse() -> None:
        raise BeftError("the settings are wrong")

    with at_server():
        pass
    with pytest.raises(BeftError, match="the settings are wrong"), at_server(refuse):
        pass
    assert SubprocessASGIServer() is of_prefect and not touched
