"""A Prefect server that asks who is there before it says that it is well, as Prefect Cloud and proxies do."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

from beft.errors import BeftError
from flows.servers.prefect_server import server_address

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
