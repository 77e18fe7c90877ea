"""Texts to padded batches of tokens."""
