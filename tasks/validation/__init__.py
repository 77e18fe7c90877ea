"""Checks of the data, by Great Expectations."""
