"""The batcher takes what waits, by length, up to its tokens; it loses nothing, starves nobody, and fails rows alone."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from beft.serving.batcher import Batcher, BatchReport, ClosedError, QueueTimeoutError


class Adapter:
    uses_own_head = False


class Row:
    """A row whose output is its number."""

    def __init__(self, number: int, length: int, sequences: int = 1) -> None:
        self.number, self.length = number, length
        self.input_ids = [[0] * length for _ in range(sequences)]
        self.adapter = Adapter()


class Engine:
    """Computes when it may; a row of length 13 fails."""

    batch_tokens = 64

    def __init__(self) -> None:
        self.free = threading.Event()
        self.batches: list[list[Row]] = []

    def outputs(self, rows: Sequence[Row]) -> list[Tensor]:
        self.free.wait(10)
        self.batches.append(list(rows))
        if any(row.length == 13 for row in rows):
            raise ValueError("thirteen")
        return [torch.tensor([[float(row.number)]]) for row in rows]


@pytest.fixture
def engine() -> Engine:
    return Engine()


def held(engine: Engine, batcher: Batcher) -> None:
    """Give the batcher a first row, and wait until it computes it: what comes now waits."""
    batcher.submit([Row(-1, 1)])  # type: ignore[list-item]
    while batcher.waiting:
        time.sleep(0.001)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 3)), min_size=1, max_size=6), min_size=1, max_size=8)
)
def test_every_row_gets_its_own_output(requests: list[list[tuple[int, int]]]) -> None:
    engine = Engine()
    reports: list[BatchReport] = []
    batcher = Batcher(engine, on_batch=reports.append)  # type: ignore[arg-type]
    held(engine, batcher)
    number, futures = 0, []
    for request in requests:
        rows = []
        for length, sequences in request:
            rows.append(Row(number, length if length != 13 else 14, sequences))
            number += 1
        futures.append((rows, batcher.submit(rows)))  # type: ignore[arg-type]
    engine.free.set()
    for rows, future in futures:
        assert [int(one) for one in future.result(10)] == [row.number for row in rows]
    batcher.close()
    for batch in engine.batches:
        padded = max(row.length for row in batch) * sum(len(row.input_ids) for row in batch)
        assert padded <= engine.batch_tokens or len(batch) == 1
    assert sum(report.rows for report in reports) == number + 1
    assert all(report.tokens <= report.padded for report in reports)


def test_the_row_that_waits_longest_is_always_in_the_next_batch(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    oldest = batcher.submit([Row(0, 60)])  # type: ignore[list-item]
    for number in range(1, 30):
        batcher.submit([Row(number, 2)])  # type: ignore[list-item]
    engine.free.set()
    oldest.result(10)
    batcher.close()
    assert [row.number for row in engine.batches[1]] == [0]  # alone: with a short one it would be past the budget


def test_rows_of_like_length_are_computed_together(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    futures = [batcher.submit([Row(number, 4 if number % 2 else 15)]) for number in range(12)]  # type: ignore[list-item]
    engine.free.set()
    for future in futures:
        future.result(10)
    batcher.close()
    assert [{row.length for row in batch} for batch in engine.batches[1:]] == [{15}, {4}, {15}]


def test_nobody_waits_for_company(engine: Engine) -> None:
    engine.free.set()
    batcher = Batcher(engine)  # type: ignore[arg-type]
    began = time.perf_counter()
    for number in range(20):
        batcher.submit([Row(number, 3)]).result(10)  # type: ignore[list-item]
    assert time.perf_counter() - began < 1  # a fixed window would add up
    batcher.close()


def test_a_row_fails_alone(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    good = [batcher.submit([Row(number, 4)]) for number in range(3)]  # type: ignore[list-item]
    bad = batcher.submit([Row(3, 13)])  # type: ignore[list-item]
    engine.free.set()
    assert [int(future.result(10)[0]) for future in good] == [0, 1, 2]
    with pytest.raises(ValueError, match="thirteen"):
        bad.result(10)
    batcher.close()


def test_a_cancelled_request_is_not_computed(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    gone, stays = batcher.submit([Row(0, 4)]), batcher.submit([Row(1, 4)])  # type: ignore[list-item]
    assert gone.cancel()
    engine.free.set()
    stays.result(10)
    batcher.close()
    assert [[row.number for row in batch] for batch in engine.batches] == [[-1], [1]]
    with pytest.raises(CancelledError):
        gone.result(0)


def test_a_request_that_waits_too_long_is_told(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    late = batcher.submit([Row(0, 4)], timeout=0.01)  # type: ignore[list-item]
    time.sleep(0.05)
    engine.free.set()
    with pytest.raises(QueueTimeoutError, match="waited too long"):
        late.result(10)
    batcher.close()
    assert len(engine.batches) == 1


@pytest.mark.parametrize(("length", "timeout"), [(4, 10), (13, 10), (4, 0.01)], ids=["outputs", "error", "too late"])
def test_a_request_may_be_cancelled_at_the_moment_of_its_answer(engine: Engine, length: int, timeout: float) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    gone = batcher.submit([Row(0, length)], timeout=timeout)  # type: ignore[list-item]
    if timeout < 1:
        time.sleep(0.05)
    for settles in ("set_result", "set_exception"):
        setattr(gone, settles, partial(cancelled_first, gone, getattr(gone, settles)))
    engine.free.set()
    with pytest.raises(CancelledError):
        gone.result(10)
    later = batcher.submit([Row(1, 4)])  # type: ignore[list-item]
    assert int(later.result(10)[0]) == 1
    batcher.close()


def cancelled_first(future: "Future[list[Tensor]]", settle: Callable[[Any], None], found: Any) -> None:
    """Its client is faster."""
    assert future.cancel()
    settle(found)


def test_closing_answers_what_was_accepted_and_takes_nothing_more(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    held(engine, batcher)
    accepted = [batcher.submit([Row(number, 40)]) for number in range(5)]  # type: ignore[list-item]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)
    with pytest.raises(ClosedError):
        batcher.submit([Row(9, 4)])  # type: ignore[list-item]
    engine.free.set()
    closing.join(10)
    assert [int(future.result(0)[0]) for future in accepted] == list(range(5))


def test_a_request_without_rows_is_answered(engine: Engine) -> None:
    batcher = Batcher(engine)  # type: ignore[arg-type]
    assert batcher.submit([]).result(1) == []
    engine.free.set()
    batcher.close()
