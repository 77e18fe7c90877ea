"""The training engine: many runs in one pass, and the probe and the target made with it."""
