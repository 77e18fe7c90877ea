"""`make docs` builds the reference of every module without the network; what the pages name is there."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("beft", "tasks", "flows")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
NAMED = re.compile(r"`((?:beft|tasks|flows|tests|data|mlflow|benchmarks|docs)/[\w./-]*)`")
EXAMPLE = re.compile(r"NAME|STEP|tickets|^data/(raw|prepared)|^mlflow/mlflow\.db")
"""Paths that stand for others, or that a run makes."""


def command(out: Path) -> list[str]:
    """The command of `make docs`, with another folder for its pages."""
    [line] = re.findall(r"python -m (pdoc .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    arguments = line.replace("--output-directory site", "--output-directory OUT").split()
    return [sys.executable, "-m", *(str(out) if word == "OUT" else word for word in arguments)]


@pytest.mark.slow
def test_the_reference_has_every_module_and_needs_no_network(tmp_path: Path) -> None:
    blocked = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **blocked, "PDOC_ALLOW_EXEC": "1"}
    done = subprocess.run(command(tmp_path), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    for path in (path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("")
        page = module.parent if module.name == "__init__" else module
        if module.name != "__main__":
            assert f"{page}.html" in pages, path
    for name, text in pages.items():
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)|<link[^>]+href="(https?:[^"]+)', text)
        assert not loaded, name
        assert not re.search(r"@import\b|url\(.?http", text), name


def test_the_hook_is_installed(tmp_path: Path) -> None:
    """Of CONTRIBUTING.md: ``pre-commit install``."""
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "install"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / ".git" / "hooks" / "pre-commit").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Every path, and every name that stands in a module: ``NAME in PATH``."""
    text = page.read_text()
    assert not [path for path in NAMED.findall(text) if not EXAMPLE.search(path) and not (ROOT / path).exists()]
    for names, path in re.findall(r"((?:`[\w.]+`(?: and |, )?)+) in `([\w/]+\.py)`", text):
        source = (ROOT / path).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), f"{path} has no {name}"


@pytest.mark.parametrize("floor", FLOORS)
def test_arguments_that_a_docstring_explains_are_there(floor: str) -> None:
    """A renamed argument or field is renamed in its docstring too."""
    stale = [
        f"{path.relative_to(ROOT)}: {node.name} has no {name}"
        for path in sorted((ROOT / floor).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        for section, names in (("Args", parameters(node)), ("Attributes", fields(node)))
        for name in explained(ast.get_docstring(node) or "", section)
        if names and name not in names
    ]
    assert not stale


def explained(docstring: str, section: str) -> list[str]:
    """The names below a heading of a docstring."""
    _, _, after = docstring.partition(f"{section}:\n")
    block = re.split(r"^\w+:$", after, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^ {4}(\w+): ", block, re.MULTILINE)


def parameters(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """What a function takes, or a class when it is made; nothing where that is not written in it."""
    if isinstance(node, ast.ClassDef):
        inside = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        return parameters(inside[0]) if inside else fields(node)
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {one.arg for one in every if one is not None}


def fields(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """The fields and properties of a dataclass; nothing where fields are set in ``__init__``."""
    named = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    return named | {one.name for one in node.body if isinstance(one, ast.FunctionDef)} if named else set()
