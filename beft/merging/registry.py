"""The merge methods by name: each is a pure function, and its keyword arguments are its options."""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import Weighted
from beft.names import known_name, unknown_name
from beft.registry import import_methods

Merge = Callable[..., dict[str, Tensor]]
_METHODS: dict[str, Merge] = {}


def merge_method(name: str) -> Callable[[Merge], Merge]:
    """Register a function as the merge method ``name``.

    It takes a sequence of (changes, weight) and, as keyword-only arguments with defaults, its options; it gives the
    merged changes. The order of the sequence must not matter.
    """

    def register(function: Merge) -> Merge:
        if name in _METHODS:
            raise ValueError(f"the merge method {name!r} is registered twice")
        _METHODS[name] = function
        return function

    return register


@cache
def _import_methods() -> None:
    import_methods("merging/methods", lambda: _METHODS)


def _methods() -> dict[str, Merge]:
    """All of them: each file of ``merging/methods`` registers its own."""
    _import_methods()
    return _METHODS


def known_methods() -> tuple[str, ...]:
    """The names of all merge methods."""
    return tuple(sorted(_methods()))


def options(name: str) -> dict[str, Any]:
    """The options of the method ``name``, with their defaults.

    Raises:
        InputError: The method is unknown; the message names the nearest.
    """
    parameters = inspect.signature(_methods()[known_name(name, _methods(), "merge method")]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def merge_deltas(name: str, adapters: Sequence[Weighted], **given: Any) -> dict[str, Tensor]:
    """Merge changes with the method ``name`` and the options ``given``.

    Raises:
        InputError: The method or an option is unknown, an option is no number where it must be one, or the changes do
            not fit together.
    """
    known = options(name)
    for option, value in given.items():
        if option not in known:
            raise InputError(unknown_name(option, known, f"option of the merge method {name!r}"))
        default = known[option]
        kinds = (int,) if type(default) is int else (int, float) if type(default) is float else (object,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
            kind = "a whole number" if kinds == (int,) else "a number"
            raise InputError(f"the option {option} of the merge method {name!r} must be {kind}, not {value!r}")
    return _methods()[name](adapters, **given)
