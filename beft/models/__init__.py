"""A frozen base on this machine: its files, how it is loaded, and what it computes."""
