"""Adapters with merged biases; each keeps its own head."""

from collections.abc import Mapping, Sized

from beft.adapters.adapter import Adapter
from beft.errors import InputError
from beft.merging.merged import Merged


def check_several(adapters: Sized) -> None:
    """Check that there is something to merge.

    Raises:
        InputError: There are fewer than two adapters.
    """
    if len(adapters) < 2:
        raise InputError("a merge needs two adapters or more")


def with_merged(adapters: Mapping[str, Adapter], name: str, merged: Merged) -> Adapter:
    """The adapter ``name`` with its own head and merged biases."""
    own = adapters[name]
    others = [adapter for other, adapter in adapters.items() if other != name]
    return own.with_deltas(merged.deltas, others=others, provenance={"merge": merged.recipe()})


def merged_adapters(adapters: Mapping[str, Adapter], merged: Merged) -> dict[str, Adapter]:
    """Every adapter with its own head and merged biases."""
    return {name: with_merged(adapters, name, merged) for name in adapters}
