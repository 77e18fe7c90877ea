"""The engine: many runs over one frozen base in one pass, each with its own settings and result."""
