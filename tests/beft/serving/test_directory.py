"""A name means one adapter, or nothing: never the base and never another's."""

from types import SimpleNamespace
from typing import Any

import pytest

from beft.serving.directory import Directory, Served, UnknownAdapterError

ADAPTER: Any = SimpleNamespace()


def served(name: str, version: str, *aliases: str) -> Served:
    return Served(name, version, aliases, ADAPTER, 0, 0.0, True)


DIRECTORY = Directory(
    [
        served("beft-reviews", "3", "champion"),
        served("beft-reviews", "10", "challenger"),
        served("beft-pairs", "1", "challenger"),
        served("a@b", "1", "champion"),
    ],
    ("champion", "challenger"),
)


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("beft-reviews", None, "3"),
        ("beft-reviews@champion", None, "3"),
        ("beft-reviews@challenger", None, "10"),
        ("models:/beft-reviews@challenger", None, "10"),
        ("models:/beft-reviews/10", None, "10"),
        ("beft-reviews/3", None, "3"),
        ("beft-reviews", "10", "10"),
        ("beft-reviews", "challenger", "10"),
        ("beft-pairs", None, "1"),
    ],
)
def test_names(name: str, version: str | None, expected: str) -> None:
    assert DIRECTORY.find(name, version).version == expected


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("beft-review", None, "Did you mean 'beft-reviews'?"),
        ("nothing like it", None, "GET /v1/adapters lists the 3 names"),
        ("beft-reviews", "4", "it is served as 10, 3, @challenger, @champion"),
        ("beft-reviews@previous", None, "not served as 'previous'"),
        ("beft-pairs@champion", None, "not served as 'champion'"),
        ("", None, "no adapter is served as ''"),
    ],
)
def test_unknown_names(name: str, version: str | None, says: str) -> None:
    with pytest.raises(UnknownAdapterError, match=says.replace("?", r"\?")):
        DIRECTORY.find(name, version)


def test_a_snapshot_does_not_change() -> None:
    first = Directory([served("one", "1", "champion")], ("champion",))
    Directory([*first.served, served("two", "1", "champion")], ("champion",))
    assert len(first) == 1
    with pytest.raises(UnknownAdapterError):
        first.find("two")
