"""What a long loop says, against a clock that the test moves."""

import pytest

from beft import progress


def test_a_long_loop_says_every_ten_seconds_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines: list[str] = []
    seen = []
    for item in progress.with_progress("abcdefgh", 8, "letters", lines.append):
        seen.append(item)
        now += 4.0
    assert "".join(seen) == "abcdefgh"
    assert lines == ["3 of 8 letters, about 20 s left", "6 of 8 letters, about 8 s left"]


def test_a_short_loop_says_nothing() -> None:
    lines: list[str] = []
    assert list(progress.with_progress(iter(range(100)), 100, "numbers", lines.append)) == list(range(100))
    assert not lines
