"""Registered adapters: versions, aliases, decisions, and rebuilds."""
