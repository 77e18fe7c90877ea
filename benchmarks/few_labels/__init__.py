"""Few labels: which way of training serves 8, 16 or 64 rows a label, over many draws."""
