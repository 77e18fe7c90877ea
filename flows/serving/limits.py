"""How much a server takes at once; past it a request is refused with what to do."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.requests import ClientDisconnect

from beft.errors import BeftError

CLIENT_LEFT = 499
"""The client went away: nobody reads this status, but it is counted."""


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        rows: Rows of a request.
        requests: Requests at once.
        body: Bytes of a request's body.
        seconds: How long a request may wait in the queue.
        batch_tokens: Tokens of a batch, padding counted; None: what suits the device.
    """

    rows: int = 32
    requests: int = 512
    body: int = 2_000_000
    seconds: float = 30.0
    batch_tokens: int | None = None


class RefusedError(BeftError):
    """A request that is refused.

    Args:
        status: Of the HTTP response.
        headers: Of the HTTP response.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Admission:
    """Counts the requests that are being answered, and refuses those that are too many or come while it drains.

    Attributes:
        draining: Whether the server is stopping: it answers what it has, and takes nothing more.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.draining = False
        self.requests = 0
        self._lock = threading.Lock()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Within the context, a request is being answered.

        Raises:
            RefusedError: The server is stopping (503), or has as many requests as it takes (429).
        """
        with self._lock:
            if self.draining:
                raise RefusedError(503, "the server is stopping; send the request to another one", {"Retry-After": "5"})
            if self.requests >= self.limits.requests:
                raise RefusedError(
                    429,
                    f"{self.limits.requests} requests are being answered already; try again in a second",
                    {"Retry-After": "1"},
                )
            self.requests += 1
        try:
            yield
        finally:
            with self._lock:
                self.requests -= 1


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: It is larger than it may be (413), or the client went away before its end (499).
    """
    too_large = RefusedError(413, f"the body is larger than {limits.body:,} bytes; send fewer rows at once")
    length = whole_number(request.headers.get("content-length", ""))
    if length is not None and length > limits.body:
        raise too_large
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limits.body:
                raise too_large
            parts.append(part)
    except ClientDisconnect:
        raise RefusedError(CLIENT_LEFT, "the client went away before the end of its request") from None
    return b"".join(parts)


def whole_number(header: str) -> int | None:
    """The number of bytes in a header; None: it is none that a body could have."""
    return int(header) if re.fullmatch("[0-9]{1,18}", header) else None


def check_rows(count: int, limits: Limits) -> None:
    """Check how many rows a request has.

    Raises:
        RefusedError: None, or too many (422).
    """
    if not count:
        raise RefusedError(422, "the request has no row")
    if count > limits.rows:
        raise RefusedError(
            422, f"the request has {count} rows; send {limits.rows} at most, the others in other requests"
        )
