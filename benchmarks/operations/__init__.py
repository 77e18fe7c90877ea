"""What runs and servers survive, and what monitoring sees."""
