"""The headline metric of a classification whose description names none."""

from collections.abc import Mapping
from typing import Any

from beft.datasets.shape import MetricName

RARE_SHARE = 0.05
"""Accuracy hardly shows what becomes of a label with a smaller share of the rows."""


def usual_headline(counts: Mapping[str, float]) -> tuple[MetricName, str | None]:
    """Accuracy; macro F1, in which every label counts alike, where a label has under 5 % of the rows.

    Args:
        counts: The rows of each label, or its share.

    Returns:
        The metric, and why it is not accuracy.
    """
    rarest = min(counts, key=lambda name: counts[name])
    share = counts[rarest] / sum(counts.values())
    if share >= RARE_SHARE:
        return "accuracy", None
    return "macro_f1", f"the label {rarest!r} has {100 * share:.2g} % of the rows, which accuracy would hardly show"


def expected_headline(values: Mapping[str, Any]) -> MetricName:
    """The usual headline by the shares that a description declares, else by equal ones.

    Args:
        values: Of a description, before they are checked.
    """
    labels, shares = values.get("labels"), values.get("shares") or {}
    if not isinstance(labels, list | dict) or not labels or not isinstance(shares, dict):
        return "accuracy"
    counts = shares or {str(name): 1.0 for name in labels}
    known = all(isinstance(share, int | float) and share > 0 for share in counts.values())
    return usual_headline(counts)[0] if known else "accuracy"


def rows_decide(values: Mapping[str, Any]) -> bool:
    """Whether a description leaves its headline to the rows: it names no metric, and its labels may be unequal.

    Two labels without shares are expected to be equal, which the check of the raw data sees to.
    """
    if values.get("metric") or values.get("metrics") or values.get("shape", "classification") != "classification":
        return False
    labels = values.get("labels")
    return bool(values.get("shares")) or (isinstance(labels, list | dict) and len(labels) > 2)
