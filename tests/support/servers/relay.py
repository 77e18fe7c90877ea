"""A relay before a server, by which some answers break off, as they do when a server is stopped while it answers."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Relay:
    """A running relay.

    Attributes:
        address: Where it is asked, in place of the server.
        breaks: How many of the next answers lose their body.
        broken: The paths whose answers did.
    """

    address: str
    breaks: int = 0
    broken: list[str] = field(default_factory=list)


@contextmanager
def relay_to(server: str, path: str) -> Iterator[Relay]:
    """Pass every request on to a server, which does what it is asked also where its answer is lost.

    Args:
        server: The address of a server, ``http://HOST:PORT``.
        path: How the path of the requests ends whose answers can be broken.
    """

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            behind = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            behind.request(self.command, self.path, body, kept)
            answer = behind.getresponse()
            content = answer.read()
            behind.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if relay.breaks and urlsplit(self.path).path.endswith(path):
                relay.breaks -= 1
                relay.broken.append(self.path)
                return
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests say what they saw."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    relay = Relay(f"http://127.0.0.1:{listening.server_address[1]}")
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield relay
    finally:
        listening.shutdown()
        listening.server_close()
