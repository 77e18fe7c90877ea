"""All settings under their dotted names, as people write them on the command line."""

from tasks.engine.declaration import JSON
from tasks.settings import PipelineSettings

NON_TRAINING_SECTIONS = frozenset({"measure", "tracking", "versioning", "promotion", "deployment"})
"""Sections that say where things are kept and run and how versions are judged, never what is trained; an address among
them may hold a password. And that of ``beft reproduce``, which the main job does not look at."""


def flat(settings: PipelineSettings) -> dict[str, JSON]:
    """Dotted name to value, lists as they are; without the sections ``NON_TRAINING_SECTIONS``."""
    found: dict[str, JSON] = {}

    def walk(name: str, value: JSON) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                walk(f"{name}.{key}" if name else key, below)
        else:
            found[name] = value

    walk("", settings.model_dump(mode="json", exclude=set(NON_TRAINING_SECTIONS)))
    return found
