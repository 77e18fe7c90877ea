"""Whatever is wrong with YAML that a user wrote, the message says so and where; what beft writes is read back."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from beft.cli.options import parse_changes
from beft.datasets.description import DatasetError, Description
from beft.errors import InputError
from beft.settings import Settings
from beft.yaml_text import format_yaml, parse_yaml

WRONG = [
    "2020-13-45",
    "&a [*a]",
    "&a {b: *a}",
    "!!int ''",
    "!!bool perhaps",
    "1" * 5000,
    "[" * 5000,
    "[",
    "!!python/x y",
    "{a: 1, b: 2, a: 3}",
]


@pytest.mark.parametrize("value", WRONG)
def test_what_cannot_be_read_is_told_by_whoever_reads_it(value: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"title: {value}\n")
    with pytest.raises(DatasetError, match="is not valid YAML"):
        Description.read(path)
    with pytest.raises(InputError, match=r"own\.yaml is not valid YAML"):
        Settings.read(path)
    with pytest.raises(InputError, match="is no YAML value"):
        parse_changes([f"seed={value}"])


def test_a_wrong_value_is_told_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"this value cannot be read \(month must be .*\n.* line 2, column 8"):
        parse_yaml("version: 1\ntitle: 2020-13-45")


def test_a_key_given_twice_is_told_with_both_lines() -> None:
    with pytest.raises(ValueError, match=r"the key 'seed' is already given in line 1: .*\n.* line 3, column 1"):
        parse_yaml("seed: 1\nbase: {}\nseed: 2")


@pytest.mark.parametrize(
    "text",
    ["", "a", "a: &x {b: 1}\nc: *x\nd: {<<: *x, b: 3, e: [2, 2020-01-01]}", "'1': b\n1: c\nd: {1: e}"],
)
def test_what_is_valid_is_read_as_ever(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("\x85\u2028\u2029\r\n\t :#-'\"\\"))


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8))
@example({"\x85": ["a\x85b"]})
def test_what_is_written_is_read_back(values: object) -> None:
    for width in (80, 2**31):
        assert parse_yaml(format_yaml(values, width=width)) == values


def test_only_a_next_line_is_written_in_another_way_than_pyyaml_does() -> None:
    values = {
        "title": "caf\u00e9 \u2014 two\nlines",
        "null": ["'", '"', " x", "1", True, 2.5, None],
        "long": "word " * 40,
    }
    assert format_yaml(values) == yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    assert format_yaml({"a": "b\x85"}) == 'a: "b\\N"\n'
