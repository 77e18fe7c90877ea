"""Merge adapters of one base: one file a method, one registry, and a report of how much the adapters conflict.

The methods are the pure functions on changes in the files of ``beft/merging/methods``. ``beft.merging.choice`` chooses
their options and weights on dev rows.
"""

from beft.discovery import import_methods
from beft.merging.comparison import Comparison, compare, compare_all
from beft.merging.deltas import content_hash
from beft.merging.merged import Merged, MergeWarning, merge
from beft.merging.registry import known_methods, merge_deltas, merge_method, options

__all__ = [
    "Comparison",
    "MergeWarning",
    "Merged",
    "compare",
    "compare_all",
    "content_hash",
    "known_methods",
    "merge",
    "merge_deltas",
    "merge_method",
    "options",
]

import_methods("merging/methods", known_methods)
