"""What one step does, one file a step."""
