"""Seconds and memory: the training engine, prediction and the estimates, against peers and by size."""
