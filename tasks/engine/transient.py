"""Which errors may be gone the next time: a network that did not answer. Wrong input stays what it is."""

from collections.abc import Iterator

_NETWORK = ("httpcore", "httpx", "requests", "urllib3")


def is_transient(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, came from a connection."""
    return any(
        isinstance(cause, ConnectionError | TimeoutError) or type(cause).__module__.split(".")[0] in _NETWORK
        for cause in _causes(error)
    )


def broke_off(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is an answer over HTTP that ended before its end."""
    from requests.exceptions import ChunkedEncodingError

    return any(isinstance(cause, ChunkedEncodingError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
