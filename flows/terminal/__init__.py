"""What a user reads on the terminal: outcomes, the registry, rebuilds, the log."""
