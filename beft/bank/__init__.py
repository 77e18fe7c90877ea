"""Vectors behind frozen modules, many runs at once, and what is measured through them."""
