"""Which files of the project a module imports, directly or not: what its behaviour can depend on."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock

PACKAGES = ("beft", "tasks")

_PARSING = Lock()  # Python 3.11 counts the depth of all trees that threads build in one place, and fails (SystemError)


def import_closure(module: Path, root: Path) -> frozenset[str]:
    """The files that a module is made of, relative to the project's folder.

    These are the module itself, every module of ``beft`` and ``tasks`` that it imports (at the top, in a function, or
    through a ``MethodRegistry`` of a folder), the ``__init__.py`` of their packages, and the data files beside those of
    ``beft``. What is imported for the type checker alone is left out.

    Args:
        root: The project's folder.

    Example:
        >>> import_closure(root / "tasks/steps/score.py", root)
        frozenset({"beft/importance/registry.py", "beft/importance/methods/fisher.py", ...})
    """
    seen: set[Path] = set()
    named: set[str] = set()
    waiting = [module]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix == ".py":
            names = _imported_names(path.read_bytes()) - named
            named |= names
            waiting += [file for name in names for file in _files_of(name, root)]
    data = {
        path
        for folder in {path.parent for path in seen if path.name != "__init__.py" and root / "beft" in path.parents}
        for path in folder.iterdir()
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    return frozenset(path.relative_to(root).as_posix() for path in seen | data)


@lru_cache(maxsize=4096)
def _imported_names(source: bytes) -> frozenset[str]:
    """The dotted names that a source may import; ``package.*``: all modules of a folder."""
    with _PARSING:
        tree = ast.parse(source)
    return frozenset(_names(tree, calls=b"MethodRegistry" in source))


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """The files of a module by its name, and those of the packages that it is in."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        below = root.joinpath(*parts[:end])
        yield from (file for file in (below.with_suffix(".py"), below / "__init__.py") if file.is_file())
    folder = root.joinpath(*parts[:-1])
    if parts[-1] == "*" and folder.is_dir():
        yield from folder.glob("*.py")


def _names(node: ast.AST, *, calls: bool) -> Iterator[str]:
    """The names that are imported below a node.

    Args:
        calls: Whether to look into expressions too, where a ``MethodRegistry`` may be; imports are statements.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) and not calls:
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _names(ast.Module(child.orelse, []), calls=calls)
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] in PACKAGES:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Call) and getattr(child.func, "id", "") == "MethodRegistry":
            folder = child.args[0]
            if isinstance(folder, ast.Constant):
                yield f"beft.{str(folder.value).replace('/', '.')}.*"
        yield from _names(child, calls=calls)
