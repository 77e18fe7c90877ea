"""Heads that a base brings with it."""
