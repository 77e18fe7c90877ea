"""Prepared data that an adapter cannot read is refused before a merge is searched on it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beft.cli.merging import _opener
from beft.errors import InputError
from beft.settings import Settings
from tests.beft.datasets.small import prepared, texts
from tests.beft.datasets.test_shapes import CHOICE


@pytest.mark.parametrize(
    ("chooses", "told"), [(True, "chooses among the choices of each text, and got none"), (False, "was not trained to")]
)
def test_choices_that_the_data_lacks_or_the_adapter_does_not_take(chooses: bool, told: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = texts(200)
    if not chooses:
        rows = [row | {"first": "x", "second": "y", "right": n % 2} for n, row in enumerate(rows)]
    folder = prepared(tmp_path, rows, size=60, **({} if chooses else CHOICE))
    adapter: Any = SimpleNamespace(pairs=None, takes_choices=chooses)
    with pytest.raises(InputError, match=told):
        _opener(Settings(), {"one": adapter}, {"one": folder}, None)("one")
