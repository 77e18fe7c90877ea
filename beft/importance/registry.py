"""The importance methods by name: each is a pure function, and its signature names what it needs."""

import inspect
from collections.abc import Callable
from typing import Any

from beft.errors import InputError
from beft.importance.result import Importance
from beft.registry import MethodRegistry

ScoreFunction = Callable[..., Importance]

IMPORTANCE_METHODS = MethodRegistry("importance/methods", "importance method")


def importance_method(name: str) -> Callable[[ScoreFunction], ScoreFunction]:
    """Register a function as the importance method ``name``.

    Its parameters name the evidence that it needs: ``before`` and ``after`` (the biases before and after the probe),
    ``information`` (Fisher information of each component, taken before the probe).
    """
    return IMPORTANCE_METHODS.register(name)


def known_methods() -> tuple[str, ...]:
    """The names of all importance methods."""
    return IMPORTANCE_METHODS.names


def score(name: str, **evidence: Any) -> Importance:
    """Score with the method ``name``; it gets the evidence that its signature names.

    Raises:
        InputError: The method is unknown (the message names the nearest), or its evidence is missing.
    """
    function: ScoreFunction = IMPORTANCE_METHODS.find(name)
    needed = list(inspect.signature(function).parameters)
    missing = [parameter for parameter in needed if evidence.get(parameter) is None]
    if missing:
        raise InputError(f"the importance method {name!r} needs {', '.join(missing)}")
    return function(**{parameter: evidence[parameter] for parameter in needed})
