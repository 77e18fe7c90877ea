"""Problem types, one file each.

With a head: ``classification``, ``multi_label``, ``token_classification``, ``regression``, ``multiple_choice``. With a
language model and a prompt, and no head: ``candidates`` and ``language_model``.
"""
