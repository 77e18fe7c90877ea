"""The importance methods by name: each is a pure function, and its signature says what it needs."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from beft.errors import InputError
from beft.importance.result import Importance
from beft.names import known_name
from beft.registry import import_methods

Score = Callable[..., Importance]
_METHODS: dict[str, Score] = {}


def importance_method(name: str) -> Callable[[Score], Score]:
    """Register a function as the importance method ``name``.

    Its parameters name the evidence that it needs: ``before`` and ``after`` (the biases before and after the probe),
    ``information`` (Fisher information of each component, taken before the probe).
    """

    def register(function: Score) -> Score:
        if name in _METHODS:
            raise ValueError(f"the importance method {name!r} is registered twice")
        _METHODS[name] = function
        return function

    return register


@cache
def _import_methods() -> None:
    import_methods("importance/methods", lambda: _METHODS)


def _methods() -> dict[str, Score]:
    """All of them: each file of ``importance/methods`` registers its own."""
    _import_methods()
    return _METHODS


def known_methods() -> tuple[str, ...]:
    """The names of all importance methods."""
    return tuple(sorted(_methods()))


def score(name: str, **evidence: Any) -> Importance:
    """Score with the method ``name``; of the evidence it gets what its signature names.

    Raises:
        InputError: The method is unknown (the message names the nearest), or its evidence is missing.
    """
    function = _methods()[known_name(name, _methods(), "importance method")]
    needed = list(inspect.signature(function).parameters)
    missing = [parameter for parameter in needed if evidence.get(parameter) is None]
    if missing:
        raise InputError(f"the importance method {name!r} needs {', '.join(missing)}")
    return function(**{parameter: evidence[parameter] for parameter in needed})
