"""The functions of the public API; ``beft`` itself offers them."""
