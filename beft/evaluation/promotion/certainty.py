"""How certain a decision on the rows of a gate can be: the fewer they are, the larger a gain must be to be seen."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from beft.datasets.splitting.splits import LEAST_ROWS_FOR_GATE


def decision_certainty(summary: Mapping[str, Any], confidence: float = 0.95) -> str:
    """One sentence on what a decision on the gate of prepared data can tell.

    Args:
        summary: The content of its ``data.json``.
        confidence: That of the intervals.
    """
    rows, groups = summary["rows"]["gate"], summary.get("groups", {}).get("gate")
    if not rows:
        return (
            "no gate: a version stays a challenger. split.gate_rows keeps rows for one; by itself it does from "
            f"{LEAST_ROWS_FOR_GATE} different texts on"
        )
    units, unit = (rows, "rows") if groups is None else (groups, "groups")
    what = f"on {rows:,} gate rows" + ("" if groups is None else f" in {groups:,} groups")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if summary.get("shape") == "regression":
        return f"{what} an interval of a correlation reaches up to ±{z / math.sqrt(max(units - 3, 1)):.2f}"
    half = f"an interval reaches up to ±{100 * z / (2 * math.sqrt(units)):.1f} points"
    if summary.get("shape") in ("generation", "multi_label", "token_classification"):
        return f"{what} {half}"
    needed = least_rows_gained(confidence)
    if needed > units:
        return f"{what} no gain can be certain: {half}"
    return f"{what} only a gain of {100 * needed / units:.1f} points ({needed} {unit}) or more can be certain; {half}"


def least_rows_gained(confidence: float) -> int:
    """How many rows must be gained and none lost, so that an exchange test can call it certain."""
    return math.ceil(math.log2(2 / (1 - confidence)))
