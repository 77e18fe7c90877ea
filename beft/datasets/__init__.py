"""Datasets: named, versioned descriptions of data; getting it, preparing it, and reading what was prepared."""
