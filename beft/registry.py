"""Methods that are known because their file is there: one file a method, in a folder that holds nothing else."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import core_schema

_HERE = Path(__file__).parent


def method_names(folder: str) -> tuple[str, ...]:
    """The names of the files in a folder of this package (``importance/methods``), without importing them."""
    return tuple(sorted(path.stem for path in (_HERE / folder).glob("*.py") if not path.stem.startswith("_")))


def import_methods(folder: str, registered: Callable[[], Iterable[str]]) -> None:
    """Import all of them, and hold that each has registered a method of its own name.

    Args:
        registered: The names in the registry.

    Raises:
        ImportError: A file registers another name, or none.
    """
    names = method_names(folder)
    package = ".".join((__package__ or "beft", *Path(folder).parts))
    for name in names:
        importlib.import_module(f"{package}.{name}")
    if strange := sorted(set(names) ^ set(registered())):
        raise ImportError(f"beft/{folder}: a file and its method must have one name; not so: {', '.join(strange)}")


@dataclass(frozen=True)
class OneOf:
    """Of a setting: one of these names, checked and shown as a ``Literal`` is."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """What pydantic checks."""
        return core_schema.literal_schema(list(self.names))
