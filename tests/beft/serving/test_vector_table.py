"""A table's rows are what was written, row 0 is zeros, and what was released is used again."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from beft.serving.vector_table import VectorTable


@given(st.lists(st.one_of(st.just("add"), st.integers(0, 50)), max_size=120))
def test_rows_keep_their_values(actions: list[str | int]) -> None:
    table = VectorTable((3,), torch.float32, torch.device("cpu"))
    held: dict[int, float] = {}
    most, value = 0, 0.0
    for action in actions:
        if action == "add":
            value += 1
            row = table.add(torch.full((3,), value))
            assert row > 0 and row not in held
            held[row] = value
            most = max(most, len(held))
        elif held:
            row = sorted(held)[int(action) % len(held)]
            del held[row]
            table.release(row)
        assert not table.rows[0].any()
        for row, expected in held.items():
            assert (table.rows[row] == expected).all()
    assert (
        len(table.rows) <= 1 + most + 16 * (1 + most // 16) + most // 4
    )  # it grows with what is held, not with what came


def test_what_was_reserved_does_not_move() -> None:
    table = VectorTable((2, 4), torch.float32, torch.device("cpu"))
    table.reserve(1000)
    before = table.rows
    for _ in range(1000):
        table.add(torch.ones(2, 4))
    assert table.rows is before
    assert table.bytes < 1.2 * 1000 * 2 * 4 * 4
