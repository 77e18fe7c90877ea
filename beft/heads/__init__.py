"""Heads with a closed form or a convex fit, on frozen features."""
