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
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import core_schema

from beft.errors import InputError
from beft.names import known_name

Function = TypeVar("Function", bound=Callable[..., Any])

_HERE = Path(__file__).parent


@dataclass
class MethodRegistry:
    """The methods of one kind.

    Attributes:
        kind: What they are called in messages, for example "merge method".
        folder: Where their files are, below this package.
        group: The group of the entry points.
        functions: The methods that were imported.
    """

    kind: str
    folder: str
    group: str
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
        return tuple(sorted({*self._files, *self.entry_points, *self.functions}))

    def find(self, name: str) -> Callable[..., Any]:
        """The method ``name``; it is imported when it is first used.

        Raises:
            InputError: There is none of that name (the message names the nearest), or its package cannot be imported.
            ImportError: Its file registers no method of the file's name, or an entry point has the name of a file.
        """
        known_name(name, self.names, self.kind)
        if name in self.entry_points and name in self._files:
            raise ImportError(f"{self.entry_points[name].value} has the name of a {self.kind} of beft: {name}")
        if name not in self.functions and name in self.entry_points:
            self.functions.setdefault(name, self._load(self.entry_points[name]))
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

    @cached_property
    def entry_points(self) -> dict[str, EntryPoint]:
        """The entry points of installed packages by name; each knows its distribution (``dist``)."""
        return {point.name: point for point in entry_points(group=self.group)}

    @cached_property
    def _files(self) -> frozenset[str]:
        modules = pkgutil.iter_modules([str(_HERE / self.folder)])
        return frozenset(module.name for module in modules if not module.name.startswith("_"))


IMPORTANCE_METHODS = MethodRegistry("importance method", "importance/methods", "beft.importance_methods")
MERGE_METHODS = MethodRegistry("merge method", "merging/methods", "beft.merge_methods")


@dataclass(frozen=True)
class OneOf:
    """Of a setting: one of these names, checked and shown as a ``Literal`` is."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """What pydantic checks."""
        return core_schema.literal_schema(list(self.names))
