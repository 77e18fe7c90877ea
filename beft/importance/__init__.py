"""How important each bias term is: one file a method, one registry, one result type, one selection.

The methods are ``projection_ratio``, ``magnitude``, ``magnitude_l2`` and ``fisher``, each a function in the file of
its name.
"""

from beft.importance import fisher, magnitude, magnitude_l2, projection_ratio  # noqa: F401  (importing registers them)
from beft.importance.fisher import fisher_information
from beft.importance.registry import importance_method, methods, score
from beft.importance.result import Importance
from beft.importance.selection import Selection, choose_target

__all__ = [
    "Importance",
    "Selection",
    "choose_target",
    "fisher_information",
    "importance_method",
    "methods",
    "score",
]
