"""Layouts of raw rows, one file a layout."""
