"""How important each bias term is: one file a method, one registry, one result type, one selection.

The methods are the functions in the files of ``beft/importance/methods``.
"""

from beft.discovery import import_methods
from beft.importance.methods.fisher import fisher_information
from beft.importance.registry import importance_method, known_methods, score
from beft.importance.result import Importance
from beft.importance.selection import Selection, choose_target

__all__ = [
    "Importance",
    "Selection",
    "choose_target",
    "fisher_information",
    "importance_method",
    "known_methods",
    "score",
]

import_methods("importance/methods", known_methods)
