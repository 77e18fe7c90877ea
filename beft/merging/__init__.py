"""Merge adapters of one base: one file a method, one registry, and a report of how much the adapters conflict.

The methods are ``mean``, ``task_arithmetic``, ``ties``, ``dare`` and ``searched_weights``, each a pure function on
changes in the file of its name. ``beft.merging.choice`` chooses their options and weights on dev rows.
"""

from beft.merging import dare, mean, searched_weights, task_arithmetic, ties  # noqa: F401  (importing registers them)
from beft.merging.comparison import Comparison, compare, compare_all
from beft.merging.deltas import content_hash
from beft.merging.merged import Merged, MergeWarning, merge
from beft.merging.registry import merge_deltas, merge_method, methods, options

__all__ = [
    "Comparison",
    "MergeWarning",
    "Merged",
    "compare",
    "compare_all",
    "content_hash",
    "merge",
    "merge_deltas",
    "merge_method",
    "methods",
    "options",
]
