"""The papers: published numbers, the analysis of the selection, and figures."""
