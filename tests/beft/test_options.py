"""Changes of settings by dotted name, with and without a file of settings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beft.cli.options import PARAMS, read_settings
from beft.errors import SettingsError


@pytest.mark.parametrize("file", [True, False])
def test_a_change_below_a_value_is_a_wrong_setting(file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if file:
        PARAMS.write_text("seed: 3")
    context: Any = SimpleNamespace(obj=None)
    with pytest.raises(SettingsError, match="seed: "):
        read_settings(context, PARAMS, ["seed=1", "seed.x=2"])
    read = read_settings(context, PARAMS, ["split.test_rows=20", "split.draw=2"])
    assert (read.split.test_rows, read.split.draw) == (20, 2)
