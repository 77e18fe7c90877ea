"""How important each bias term is: one file a method, one registry, one result type, one selection.

The methods are the functions in the files of ``beft/importance/methods``.
"""
