"""Many vectors of one shape in one tensor, which grows and whose rows are used again."""

import threading
from collections import deque

import torch
from torch import Tensor

_MIN_SPARE = 16
_SPARE = 8
"""One row in so many is spare when a table grows: it is copied then."""


class VectorTable:
    """Vectors or matrices of one shape, one a row; row 0 is zeros.

    A row is written once, by ``add``, and stays as it is until ``release``. Whoever computes with rows takes the tensor
    ``rows`` once: growing replaces it and leaves the old one as it is.

    Args:
        shape: Of one row.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self.rows = torch.zeros(1, *shape, dtype=dtype, device=device)
        self._free: deque[int] = deque()
        self._lock = threading.Lock()

    def add(self, value: Tensor) -> int:
        """Write a row; its number."""
        with self._lock:
            if not self._free:
                self._grow(1)
            row = self._free.popleft()
            self.rows[row].copy_(value)
            return row

    def reserve(self, rows: int) -> None:
        """Make room for so many more rows at once."""
        with self._lock:
            if rows > len(self._free):
                self._grow(rows - len(self._free))

    def release(self, row: int) -> None:
        """Let a row be written again. No batch may compute with it any more."""
        self._free.append(row)  # atomic: this runs where Python collects an adapter, in any thread

    @property
    def bytes(self) -> int:
        """Memory that the table takes."""
        return self.rows.numel() * self.rows.element_size()

    def _grow(self, rows: int) -> None:
        before = len(self.rows)
        after = before + max(rows, _MIN_SPARE) + before // _SPARE
        grown = torch.zeros(after, *self.rows.shape[1:], dtype=self.rows.dtype, device=self.rows.device)
        grown[:before] = self.rows
        self.rows = grown
        self._free.extend(range(before, after))
