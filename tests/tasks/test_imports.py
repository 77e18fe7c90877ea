"""Imports without a garbage collector."""

import gc

import pytest

from tasks.imports import without_collecting


def test_garbage_is_looked_for_again_after_the_block_also_where_it_fails() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), without_collecting():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.unfreeze()
