"""Tables and figures of the papers: planned, priced, measured and reported."""
