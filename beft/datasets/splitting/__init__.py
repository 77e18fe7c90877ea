"""Rows divided into the splits train, dev, gate and test."""
