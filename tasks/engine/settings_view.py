"""The settings that a step may touch: they enter its fingerprint, and it is shown no others.

A step that reads a setting which its declaration does not name would be used again when that setting changes. So the
others are taken away from what it is given: touching one raises an AttributeError that names it.
"""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from beft.names import known_name
from tasks.settings import PipelineSettings

_Tree = dict[str, "_Tree | None"]
"""Names of settings to what of each is visible; None is all of it."""


def restrict_settings(settings: PipelineSettings, sections: tuple[str, ...], dataset: str | None) -> PipelineSettings:
    """A copy of the settings without those that ``sections`` does not name.

    Raises:
        InputError: The settings have no such dataset.
    """
    if "*" in sections:
        return settings
    return cast(PipelineSettings, _narrow(settings, _tree(settings, sections, dataset)))


def settings_subset(settings: PipelineSettings, sections: tuple[str, ...], dataset: str | None) -> dict[str, Any]:
    """The JSON form of the settings that ``sections`` names.

    Raises:
        InputError: The settings have no such dataset.
    """
    values = settings.model_dump(mode="json")
    return values if "*" in sections else cast(dict[str, Any], _pick(values, _tree(settings, sections, dataset)))


def _tree(settings: PipelineSettings, sections: tuple[str, ...], dataset: str | None) -> _Tree:
    """The names below each other; a step over all datasets means every one of them by ``{dataset}``."""
    if dataset is not None:
        known_name(dataset, settings.datasets, "dataset of the settings")
    named = list(settings.datasets) if dataset is None else [dataset]
    tree: _Tree = {}
    for section in sections:
        for name in named if "{dataset}" in section else [""]:
            *parents, last = section.replace("{dataset}", name).split(".")
            below: _Tree | None = tree
            for parent in parents:
                below = below.setdefault(parent, {}) if below is not None else None
            if below is not None:
                below[last] = None
    return tree


def _narrow(value: Any, tree: _Tree | None) -> Any:
    if tree is None:
        return value
    if isinstance(value, BaseModel):
        copy = value.model_copy()
        copy.__dict__.clear()  # a field that is missing there is no attribute of the model
        copy.__dict__.update({name: _narrow(getattr(value, name), below) for name, below in tree.items()})
        return copy
    return {name: _narrow(value[name], below) for name, below in tree.items()}


def _pick(value: Mapping[str, Any], tree: _Tree | None) -> Mapping[str, Any]:
    if tree is None:
        return value
    return {name: _pick(value[name], below) for name, below in tree.items()}
