"""Metrics by name, as modules of evaluate."""
