"""Nothing is read with pickle; nothing from outside becomes code, shell text or a path; servers stay here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from beft.errors import BeftError
from flows.cli import status_of
from tasks.settings import PipelineSettings

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for floor in ("beft", "tasks", "flows", "mlflow", "benchmarks") for path in (ROOT / floor).rglob("*.py")
)

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
"""Modules whose reading runs what the file says."""
EXECUTE = {"eval", "exec"}
_NEVER = {
    "pandas.read_pickle",
    "pd.read_pickle",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
}


def dangers(source: str) -> Iterator[str]:
    """What a source does that it must not, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno} imports {name}" for name in names if name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name in _NEVER or name in EXECUTE:
                yield f"line {node.lineno} calls {name}"
            if keywords.get("shell", "False") != "False":
                yield f"line {node.lineno} hands text to a shell"
            if keywords.get("trust_remote_code", "False") != "False":
                yield f"line {node.lineno} runs code of a model's author"
            if name == "torch.load" and keywords.get("weights_only") != "True":
                yield f"line {node.lineno} reads with pickle"
            if keywords.get("allow_pickle", "False") != "False":
                yield f"line {node.lineno} reads with pickle"


def test_no_file_is_read_with_pickle_and_no_text_is_run() -> None:
    assert len(SOURCES) > 100
    found = {path.relative_to(ROOT).as_posix(): list(dangers(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert not {path: wrong for path, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import cloudpickle.fast",
        "torch.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "yaml.load(text)",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_check_finds_each(source: str) -> None:
    assert len(list(dangers(source))) == 1


def test_no_server_listens_to_the_network_by_default() -> None:
    """No source names an address that means all of them; whoever wants one says so on the command line."""
    every = re.compile(r"0\.0\.0\.0|[\"']::[\"'](?!\.join)|dashboard_address=[\"']:")
    configured = [ROOT / name for name in ("Makefile", "prefect.yaml", "params.yaml")]
    found = [str(path) for path in (*SOURCES, *configured) if every.search(path.read_text(encoding="utf-8"))]
    assert not found


UNKIND = [
    "../../outside",
    "/etc/passwd",
    "$(touch outside)",
    "a; touch outside",
    "..",
    "--output=outside",
    "a\nb",
    "a' OR '1",
]


@pytest.mark.parametrize("name", UNKIND)
def test_names_from_outside_are_looked_up_and_never_used_as_paths(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    with pytest.raises(BeftError):
        PipelineSettings.from_mapping({"tracking": {"model_prefix": name}})
    from beft.datasets.registry import find_dataset
    from beft.models.reference import resolve_base
    from tasks.run_metadata import check_settings

    with pytest.raises(BeftError, match="unknown dataset"):
        find_dataset(name, work)
    settings = PipelineSettings.from_mapping({"datasets": {name: {}}})
    with pytest.raises(BeftError, match="unknown dataset"):
        check_settings(settings, work)
    with pytest.raises(BeftError):
        resolve_base(f"pypi:{name}")
    assert status_of(["datasets", "check", "--", name]) == 2
    capsys.readouterr()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("commit", ["--output=outside", "--remote=ext::sh", "HEAD", "main", "", "c" * 39])
def test_what_a_registry_calls_a_commit_is_no_option_of_git(commit: str, tmp_path: Path) -> None:
    from tasks.source_archive import source_of_commit

    with pytest.raises(BeftError, match="not the name of a commit"):
        source_of_commit(tmp_path, commit, tmp_path / "source")
    assert not list(tmp_path.iterdir())
