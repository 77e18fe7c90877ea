"""Runs over a frozen base and what they predict."""
