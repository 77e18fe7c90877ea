"""Measured shares are positive, sum to 1 and are right; a value in one line is in one line."""

import pytest
import yaml

from beft.datasets.splitting.shares import in_one_line, measured_shares


@pytest.mark.parametrize("labels", [2, 3, 51, 54, 57, 60, 120, 150, 1001])
def test_labels_of_the_same_size_have_nearly_the_same_share(labels: int) -> None:
    shares = measured_shares({f"label {number}": 50 for number in range(labels)})
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert all(share == pytest.approx(1 / labels, rel=0.101) for share in shares.values())


def test_shares_have_as_few_digits_as_are_right() -> None:
    assert measured_shares({"a": 119, "b": 1}) == {"a": 0.992, "b": 0.008}
    assert measured_shares({"a": 999_999, "b": 1}) == {"a": 0.999999, "b": 0.000001}


@pytest.mark.parametrize("text", ["a\nb", "a\n", "\n", "a\u2028b", "a\x85b", "yes", "", "caf\u00e9", "a: b # c", "1"])
def test_a_value_in_one_line(text: str) -> None:
    for value in (text, [text, 1], {text: 0.5}):
        written = in_one_line(value)
        assert len(written.splitlines()) == 1
        assert yaml.safe_load(written) == value
