"""The merge methods by name: each is a pure function, and its keyword-only arguments are its options."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from beft.errors import InputError
from beft.merging.deltas import Weighted
from beft.names import known_name
from beft.registry import MethodRegistry

Merge = Callable[..., dict[str, Tensor]]

MERGE_METHODS = MethodRegistry("merging/methods", "merge method")


def merge_method(name: str) -> Callable[[Merge], Merge]:
    """Register a function as the merge method ``name``.

    It takes a sequence of (changes, weight) and, as keyword-only arguments with types and defaults, its options; it
    returns the merged changes. The order of the sequence must not matter.
    """
    return MERGE_METHODS.register(name)


def known_methods() -> tuple[str, ...]:
    """The names of all merge methods."""
    return MERGE_METHODS.names


def options(name: str) -> dict[str, Any]:
    """The options of the method ``name``, with their defaults.

    Raises:
        InputError: The method is unknown; the message names the nearest.
    """
    return dict(_options_model(name)())


def merge_deltas(name: str, adapters: Sequence[Weighted], **given: Any) -> dict[str, Tensor]:
    """Merge changes with the method ``name`` and the options ``given``.

    Raises:
        InputError: The method or an option is unknown, an option is of another type than the method says, or the
            changes do not fit together.
    """
    model = _options_model(name)
    for option in given:
        known_name(option, model.model_fields, f"option of the merge method {name!r}")
    try:
        checked = model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}"
        raise InputError(f"the option {first['loc'][0]} of the merge method {name!r}: {problem}") from None
    merge: Merge = MERGE_METHODS.find(name)
    return merge(adapters, **dict(checked))


def _options_model(name: str) -> type[BaseModel]:
    """The types and defaults of a method's options, from its signature."""
    parameters = inspect.signature(MERGE_METHODS.find(name), eval_str=True).parameters.values()
    fields: dict[str, Any] = {
        each.name: (Any if each.annotation is each.empty else each.annotation, each.default)
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
    }
    return create_model(name, __config__=ConfigDict(strict=True), **fields)
