"""Settings that were written by an older version are read."""

import pytest

from beft.settings import Settings


def test_an_old_name_is_read_and_the_new_one_is_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.from_mapping({"train": {"rows_at_once": 4}, "probe": {"micro_batch_size": 2}})
    assert (settings.train.micro_batch_size, settings.probe.micro_batch_size) == (4, 2)
    assert "rows_at_once is now called micro_batch_size" in caplog.text


def test_the_new_name_wins() -> None:
    settings = Settings.from_mapping({"train": {"rows_at_once": 4, "micro_batch_size": 8}})
    assert settings.train.micro_batch_size == 8
