"""A process of clients: each sends one row a request over a connection of its own, and the next upon the answer.

    python -m benchmarks.serving.client '{"port": 8000, "mix": "distinct", ...}'

With a rate, requests come at random moments instead (Poisson), whether or not others were answered. Prints JSON: the
answers that came in the measured time, those that failed, the latency of each request that was sent in it in
milliseconds, and the processor time of this process.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SKEW = 1.5
"""Of the Zipf distribution of the skewed mix, as in Punica (arXiv 2310.18547, section 7)."""


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        mix: ``distinct`` (each request another adapter), ``uniform`` (drawn from as many as the square root of all),
            ``skewed`` (Zipf), or ``identical``.
        adapters: How many there are; 0: the server has one model and takes no name.
        connections: Clients at once.
        seconds: How long requests are sent, after a second of warming up.
        rate: Requests a second; None: each client sends its next upon the answer.
        texts: A file of texts, one a line.
    """

    port: int
    mix: str
    adapters: int
    connections: int
    seconds: float
    texts: str
    rate: float | None = None
    seed: int = 0


def requests(load: Load) -> Iterator[bytes]:
    """The requests, one after the other, for ever."""
    draw = random.Random(load.seed)
    texts = Path(load.texts).read_text(encoding="utf-8").splitlines()
    weights = [1 / (rank + 1) ** SKEW for rank in range(load.adapters)]
    number = 0
    while True:
        text = texts[number % len(texts)]
        body: dict[str, Any] = {"dataframe_split": {"columns": ["text"], "data": [[text]]}}
        if load.adapters:
            body["params"] = {"adapter": f"bench-{chosen(load, number, draw, weights)}"}
        content = json.dumps(body).encode()
        yield (
            b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(content)).encode() + b"\r\n\r\n" + content
        )
        number += 1


def chosen(load: Load, number: int, draw: random.Random, weights: list[float]) -> int:
    """The adapter of a request."""
    match load.mix:
        case "distinct":
            return number % load.adapters
        case "uniform":
            return draw.randrange(max(1, round(load.adapters**0.5)))
        case "skewed":
            return draw.choices(range(load.adapters), weights)[0]
        case _:
            return 0


class Clients:
    """Connections to one server."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests = requests(load)
        self.idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.latencies: list[tuple[float, float]] = []
        self.failures: list[str] = []

    async def ask(self, began: float) -> None:
        """Send one request and read its answer."""
        reader, writer = await self.idle.get()
        try:
            writer.write(next(self.requests))
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
            body = await reader.readexactly(length)
            if b" 200 " not in lines[0]:
                self.failures.append(body.decode()[:200])
        except (OSError, asyncio.IncompleteReadError, StopIteration) as error:
            self.failures.append(repr(error))
            reader, writer = await asyncio.open_connection("127.0.0.1", self.load.port)
        self.latencies.append((began, time.perf_counter() - began))
        self.idle.put_nowait((reader, writer))

    async def run(self) -> dict[str, Any]:
        """Send the load; what was seen after the first second."""
        for _ in range(self.load.connections):
            self.idle.put_nowait(await asyncio.open_connection("127.0.0.1", self.load.port))
        start = time.perf_counter()
        end = start + 1 + self.load.seconds
        if self.load.rate is None:
            await asyncio.gather(*(self._again_and_again(end) for _ in range(self.load.connections)))
        else:
            await self._at_random(end)
        answers, counted = measured(self.latencies, start + 1, end)
        return {
            "answers": answers,
            "seconds": self.load.seconds,
            "failures": len(self.failures),
            "first_failure": next(iter(self.failures), None),
            "latencies": [round(1000 * seconds, 2) for seconds in counted],
            "processor_seconds": time.process_time(),
        }

    async def _again_and_again(self, end: float) -> None:
        while (now := time.perf_counter()) < end:
            await self.ask(now)

    async def _at_random(self, end: float) -> None:
        draw, rate = random.Random(self.load.seed), self.load.rate
        assert rate is not None
        due, asked = time.perf_counter(), []
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.append(asyncio.ensure_future(self.ask(due)))  # the latency counts from when it was due
            due += draw.expovariate(rate)
        await asyncio.gather(*asked)


def measured(latencies: Sequence[tuple[float, float]], start: float, end: float) -> tuple[int, list[float]]:
    """The number of answers that came between two moments, and the latencies of the requests that were sent then.

    An answer counts whenever its request was sent: else each connection would lose one at the start, and a slow server
    would lose a larger share of its answers than a fast one. A latency counts however late its answer came: else the
    longest would be left out.

    Args:
        latencies: The moment at which each request was sent, and the seconds to its answer.
    """
    answers = sum(start <= began + seconds <= end for began, seconds in latencies)
    return answers, [seconds for began, seconds in latencies if start <= began < end]


if __name__ == "__main__":
    found = asyncio.run(Clients(Load(**json.loads(sys.argv[1]))).run())
    sys.stdout.write(json.dumps(found) + "\n")
