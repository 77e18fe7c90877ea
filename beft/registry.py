"""The methods by name: one file a method in a folder of this package, and those that installed packages bring along.

A package brings a method along by an entry point of its own, whose name is the method's:

    [project.entry-points."beft.merge_methods"]
    first_alone = "my_package.merging:first_alone"

The names are known without importing a method.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import core_schema

from beft.errors import InputError
from beft.files import sha256_file, sha256_tree
from beft.names import known_name

Function = TypeVar("Function", bound=Callable[..., Any])

_HERE = Path(__file__).parent


METHOD_GROUPS = {"importance/methods": "beft.importance_methods", "merging/methods": "beft.merge_methods"}
"""The folders of methods, below this package, and the groups of their entry points."""


def method_names(folder: str) -> tuple[str, ...]:
    """The names of the methods of a folder and of its entry points, without importing them."""
    return tuple(sorted({*_file_names(folder), *_entry_points(folder)}))


def plug_ins(folder: str) -> dict[str, str]:
    """The installed packages that add methods to those of a folder: name of the package -> sha256 of its source."""
    found = {}
    for point in _entry_points(folder).values():
        package = point.module.partition(".")[0]
        spec = find_spec(package)
        for place in [] if spec is None else spec.submodule_search_locations or [str(spec.origin)]:
            path = Path(place)
            found[package] = sha256_tree(path) if path.is_dir() else sha256_file(path)
    return found


@dataclass
class MethodRegistry:
    """The methods of one kind.

    Attributes:
        folder: Where their files are; a key of ``METHOD_GROUPS``.
        kind: What they are called in messages, for example "merge method".
        functions: The methods that were imported.
    """

    folder: str
    kind: str
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def register(self, name: str) -> Callable[[Function], Function]:
        """A decorator: the function is the method ``name``."""

        def decorate(function: Function) -> Function:
            if name in self.functions:
                raise ValueError(f"the {self.kind} {name!r} is registered twice")
            self.functions[name] = function
            return function

        return decorate

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all methods, sorted."""
        return tuple(sorted({*method_names(self.folder), *self.functions}))

    def find(self, name: str) -> Callable[..., Any]:
        """The method ``name``; it is imported when it is first used.

        Raises:
            InputError: There is none of that name (the message names the nearest), or its package cannot be imported.
            ImportError: Its file registers no method of the file's name, or an entry point has the name of a file.
        """
        known_name(name, self.names, self.kind)
        point = _entry_points(self.folder).get(name)
        if point is not None and name in _file_names(self.folder):
            raise ImportError(f"{point.value} has the name of a {self.kind} of beft: {name}")
        if name not in self.functions and point is not None:
            self.functions.setdefault(name, self._load(point))
        elif name not in self.functions:
            importlib.import_module(".".join((__package__ or "beft", *Path(self.folder).parts, name)))
            if name not in self.functions:
                raise ImportError(f"beft/{self.folder}/{name}.py registers no {self.kind} of the name {name!r}")
        return self.functions[name]

    def _load(self, point: EntryPoint) -> Callable[..., Any]:
        try:
            function: Callable[..., Any] = point.load()
        except (ImportError, AttributeError) as error:
            package = "its package" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            raise InputError(f"the {self.kind} {point.name!r} of {package} cannot be imported: {error}") from error
        return function


def _file_names(folder: str) -> frozenset[str]:
    modules = pkgutil.iter_modules([str(_HERE / folder)])
    return frozenset(module.name for module in modules if not module.name.startswith("_"))


@cache
def _entry_points(folder: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=METHOD_GROUPS[folder])}


@dataclass(frozen=True)
class OneOf:
    """Of a setting: one of these names, checked and shown as a ``Literal`` is."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """What pydantic checks."""
        return core_schema.literal_schema(list(self.names))
