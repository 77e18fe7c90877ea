"""The house has three floors, and imports go down only: flows, then tasks, then beft."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = {"prefect", "mlflow", "dvc", "great_expectations"}
FORBIDDEN = {
    "beft": {"tasks", "flows", "tests", "benchmarks"} | TOOLS,
    "tasks": {"flows", "tests", "benchmarks"},
    "flows": {"tests", "benchmarks"},
}
_IMPORTERS = {"import_module", "__import__", "find_spec", "run_module"}


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a source imports: at the top, in functions, by name in a string.

    Args:
        package: The package that the source is in, for relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*above, *filter(None, [node.module])])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _IMPORTERS and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(floor: str, source: str, package: str) -> list[str]:
    """The imports of a source that its floor forbids."""
    return [
        f"line {line} imports {name}"
        for line, name in imported(source, package)
        if name.split(".")[0] in FORBIDDEN[floor]
    ]


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_imports_go_down_only(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in files
        if (wrong := violations(floor, path.read_text(), ".".join(path.relative_to(ROOT).parent.parts)))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import prefect",
        "from mlflow.pyfunc import PythonModel",
        "def f():\n    import tasks.engine.store",
        "if TYPE_CHECKING:\n    from flows import adapt",
        "from ..tasks import step",
        "importlib.import_module('dvc.api')",
        "__import__('great_expectations')",
    ],
)
def test_an_import_upwards_is_found(source: str) -> None:
    assert violations("beft", source, "beft.importance" if ".." not in source else "beft")


def test_an_import_downwards_is_none_of_them() -> None:
    assert not violations("tasks", "import beft.sites.site\nfrom . import step\nimport prefect", "tasks")


def test_the_science_imports_without_the_tools() -> None:
    """Every module of beft comes in with prefect, mlflow, dvc and great_expectations made unimportable."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "beft").rglob("*.py"))]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"]
    program = f"""
        import importlib, importlib.abc, sys

        class Nothing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(TOOLS | {"tasks", "flows"})}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Nothing())
        for module in {modules}:
            importlib.import_module(module)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
