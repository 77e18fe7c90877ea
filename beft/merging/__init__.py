"""Merge adapters of one base: one file a method, one registry, and a report of how much the adapters conflict.

The methods are the pure functions on changes in the files of ``beft/merging/methods``. ``beft.merging.choice`` chooses
their options and weights on dev rows.
"""
