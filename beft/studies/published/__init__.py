"""Numbers that papers report."""
