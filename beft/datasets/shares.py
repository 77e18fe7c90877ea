"""The shares of labels as a description declares them."""

from collections.abc import Mapping
from typing import Any

import yaml


def measured_shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Shares that sum to 1, rounded to as few digits (three or more) as leave none of them 0.

    Args:
        counts: Rows of each label, at least one of each.
    """
    rows, digits = sum(counts.values()), 3
    while any(round(count / rows, digits) == 0 for count in counts.values()):
        digits += 1
    shares = {name: round(count / rows, digits) for name, count in counts.items()}
    largest = max(shares, key=lambda name: shares[name])
    shares[largest] = round(1 - sum(share for name, share in shares.items() if name != largest), digits)
    return shares


def in_one_line(value: Any) -> str:
    """A value as YAML in one line, quoted where YAML would take it for something else."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31)
    return text.strip().removesuffix("\n...")
