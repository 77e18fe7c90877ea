"""Bases that beft knows by name: what each is, whether this machine has it, and which to take for what."""
