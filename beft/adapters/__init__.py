"""An adapter as data: its record, its files, its checks, and plain models made of it."""
