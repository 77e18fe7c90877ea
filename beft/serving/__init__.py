"""Thousands of adapters over one frozen base, answered in mixed batches."""
