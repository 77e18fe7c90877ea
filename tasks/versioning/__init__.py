"""Versions of the data, by DVC."""
