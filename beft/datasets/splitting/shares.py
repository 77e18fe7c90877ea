"""The shares of labels as a description declares them."""

from collections.abc import Mapping
from typing import Any

import yaml

from beft.datasets.splitting.strata import quotas


def measured_shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Shares that sum to 1, of as few digits (three or more) as make each of them right to a tenth of itself.

    Args:
        counts: Rows of each label, at least one of each.
    """
    rows, whole = sum(counts.values()), 1000
    while True:
        parts = dict(zip(counts, quotas(list(counts.values()), whole), strict=True))
        if all(10 * abs(parts[name] * rows - count * whole) <= count * whole for name, count in counts.items()):
            return {name: part / whole for name, part in parts.items()}
        whole *= 10


class _InOneLine(yaml.SafeDumper):
    """Writes the line breaks of texts as escapes."""


def _escaped(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    broken = "".join(text.splitlines()) != text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if broken else None)


_InOneLine.add_representer(str, _escaped)


def in_one_line(value: Any) -> str:
    """A value as YAML in one line, quoted where YAML would take it for something else."""
    text: str = yaml.dump(
        value, Dumper=_InOneLine, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31
    )
    return text.strip().removesuffix("\n...")
