"""Continuous batching: when the base is free it takes what waits, up to a number of tokens; there is no window."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from torch import Tensor

from beft.errors import BeftError
from beft.serving.engine import Engine
from beft.serving.served_adapter import EncodedRow

log = logging.getLogger("beft.serving")

_LOOK_AGAIN = 0.5  # seconds


class QueueTimeoutError(BeftError):
    """A request waited longer than it may before it was computed."""


class ClosedError(BeftError):
    """A request came while the batcher was closing."""


@dataclass(frozen=True)
class BatchReport:
    """What one batch was.

    Attributes:
        rows: Rows of requests.
        tokens: Tokens of their texts.
        padded: The same with padding: what was computed.
        seconds: From the beginning of the batch to its outputs.
        waiting: Rows that were left in the queue.
    """

    rows: int
    tokens: int
    padded: int
    seconds: float
    waiting: int


@dataclass(eq=False)
class _Job:
    """A request: its rows, and the outputs that are there."""

    rows: Sequence[EncodedRow]
    deadline: float
    future: "Future[list[Tensor]]" = field(default_factory=Future)
    outputs: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Waiting:
    job: _Job
    number: int

    @property
    def row(self) -> EncodedRow:
        return self.job.rows[self.number]

    @property
    def length(self) -> int:
        return self.row.length

    @property
    def sequences(self) -> int:
        return len(self.row.input_ids)


class Batcher:
    """A thread that computes the rows of all requests over one engine.

    Args:
        batch_tokens: Tokens of a batch, padding counted; None: what suits the device. A row that is longer is a batch
            of its own.
        on_batch: Called after each batch, in the batcher's thread.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        batch_tokens: int | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.engine = engine
        self.batch_tokens = batch_tokens or engine.batch_tokens
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="beft-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    def submit(self, rows: Sequence[EncodedRow], *, timeout: float = float("inf")) -> "Future[list[Tensor]]":
        """Put the rows of a request into the queue.

        A cancelled future's rows are dropped.

        Args:
            timeout: Seconds that the request may wait until its last row is taken.

        Returns:
            The outputs of each row, as ``Engine.outputs`` gives them; or the error.

        Raises:
            ClosedError: The batcher is closing.
        """
        job = _Job(rows, time.monotonic() + timeout)
        with self._changed:
            if self._closing:
                raise ClosedError("the server is stopping; send the request to another one")
            self._queue.extend(_Waiting(job, number) for number in range(len(rows)))
            self._changed.notify()
        if not rows:
            _settle(job.future, [])
        return job.future

    def close(self, *, timeout: float | None = None) -> None:
        """Compute what waits, take nothing more, and end the thread.

        Args:
            timeout: Seconds to wait for it; None: as long as it takes.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait(_LOOK_AGAIN)
                batch = self._take()
                left = len(self._queue)
                if not batch and not self._queue and self._closing:
                    return
            if not batch:
                continue
            began = time.perf_counter()
            self._compute(batch)
            seconds = time.perf_counter() - began
            tokens = sum(len(ids) for one in batch for ids in one.row.input_ids)
            padded = max(one.length for one in batch) * sum(one.sequences for one in batch)
            try:
                self._on_batch(BatchReport(len(batch), tokens, padded, seconds, left))
            except Exception:  # what counts batches must not end them
                log.exception("the report of a batch failed")

    def _take(self) -> list[_Waiting]:
        """The next batch: the row that has waited longest, and those of the most similar lengths."""
        now = time.monotonic()
        for one in list(self._queue):
            if one.job.future.done():
                self._queue.remove(one)
            elif now > one.job.deadline:
                self._queue.remove(one)
                _settle(one.job.future, QueueTimeoutError("the request waited too long; the server is overloaded"))
        if not self._queue:
            return []
        oldest = self._queue[0]
        own_head = oldest.row.adapter.uses_own_head
        alike = [one for one in self._queue if one.row.adapter.uses_own_head == own_head]
        batch: list[_Waiting] = []
        longest = sequences = 0
        for one in sorted(alike, key=lambda one: (one is not oldest, abs(one.length - oldest.length))):
            would_be = max(longest, one.length) * (sequences + one.sequences)
            if batch and would_be > self.batch_tokens:
                break
            batch.append(one)
            longest, sequences = max(longest, one.length), sequences + one.sequences
        taken = set(map(id, batch))
        self._queue = deque(one for one in self._queue if id(one) not in taken)
        return batch

    def _compute(self, batch: Sequence[_Waiting]) -> None:
        """Compute a batch. Where that fails its halves are computed, so that a row fails alone."""
        try:
            outputs = self.engine.outputs([one.row for one in batch])
        except Exception as error:
            if len(batch) > 1:
                half = len(batch) // 2
                self._compute(batch[:half])
                self._compute(batch[half:])
            else:
                _settle(batch[0].job.future, error)
            return
        for one, of_row in zip(batch, outputs, strict=True):
            job = one.job
            job.outputs[one.number] = of_row
            if len(job.outputs) == len(job.rows):
                _settle(job.future, [job.outputs[number] for number in range(len(job.rows))])


def _settle(future: "Future[list[Tensor]]", found: list[Tensor] | Exception) -> None:
    """Give a request its outputs or its error, unless it has one or was cancelled, perhaps just now."""
    with suppress(InvalidStateError):
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)
