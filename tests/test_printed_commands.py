"""Commands that beft prints work as printed, also in a folder whose path a shell or an address would misread."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sqlalchemy import create_engine, text

from beft.commands import own_command, pip_install, predict_command
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.multiple_choice import MultipleChoice
from flows.cli import status_of
from tasks.environment import configure_environment, sqlite_uri
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, tracking_uri
from tests.cli.workspace import describe, prepare
from tests.support.tiny_bases import make_adapter, save_base

torch.set_num_threads(1)

ODD = "my project? 100%41 #1"


@pytest.fixture(scope="module")
def project(tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a local base, and prepared single texts and pairs."""
    root = tmp_path_factory.mktemp("printed") / ODD
    base = save_base(root / "my base", tiny("bert"))
    (root / "data" / "datasets").mkdir(parents=True)
    lines = ["a,b,label"]
    for number in range(60):
        lines += [f"a good film (no. {number}),fine,pos", f"the story was dull (no. {number}),a story,neg"]
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    for name, columns in (("single", {"text": "a"}), ("pairs", {"text": "a", "text_pair": "b"})):
        describe(root, name, columns={**columns, "label": "label"}, labels=["neg", "pos"])
        prepare(root, name, root / f"{name} rows", rows=20)
        (root / "raw").rename(root / f"raw {name}")
    settings = {
        "base": {"source": f"./{base.name}", "threads": 1, "precision": "fp32"},
        "datasets": {name: {"max_length": 16} for name in ("single", "pairs")},
        "probe": {"epochs": 1},
        "train": {"epochs": 1},
    }
    (root / "my params.yaml").write_text(yaml.safe_dump(settings))
    return root


def printed(said: str) -> str:
    """The command that is printed after ``now:``."""
    [command] = re.findall(r"now: (.*)$", said, re.MULTILINE)
    return str(command)


@pytest.mark.slow
def test_what_train_and_probe_print_works_in_a_shell(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    params = ["--params", "my params.yaml"]
    commands = []
    for name in ("single", "pairs"):
        arguments = ["train", f"{name} rows", "--term", "value", "--out", f"my {name}'s adapter", *params]
        assert status_of(arguments) == 0, capsys.readouterr().err
        commands.append(printed(capsys.readouterr().out))
    only = ["--set", "score.candidates=[value, query]"]
    assert status_of(["probe", "single rows", "--out", "-probe of $HOME", *params, *only]) == 0
    commands.append(printed(capsys.readouterr().out))
    assert shlex.split(commands[-1])[-4:] == [*params, *only]
    assert [command for command in commands if "predict" in command] == commands[:2]
    for command in commands:
        done = subprocess.run(["sh", "-c", command], cwd=project, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout


def test_what_an_adapter_of_choices_needs_is_in_the_command(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    compute = Compute("cpu", "fp32", 1)
    base = resolve_base("./my base")
    classifier = load_classifier(base, (), compute=compute, pooling="model", problem_type=MultipleChoice())
    make_adapter(classifier).save(Path("my chooser"))
    command = predict_command(Path("my chooser"), Path("my chooser"), "./my base", "-5 & more")
    assert status_of(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.split("\t")[0] in ("one choice", "another choice")
    assert command.endswith("-- '-5 & more'")


def test_the_example_of_a_prediction_without_a_text_keeps_the_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert status_of(["predict", "adapter", "--base", "my base", "--choice", "one", "--choice", "two"]) == 2
    options = "adapter --base 'my base' --choice one --choice two 'some text'"
    assert f"beft predict {options}" in " ".join(capsys.readouterr().err.split())


def test_a_text_that_begins_with_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["predict", "adapter", "-5 stars"]) == 2
    assert "a text that begins with a dash stands behind --" in " ".join(capsys.readouterr().err.split())


def test_arguments_are_quoted_and_paths_are_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path(own_command("beft"))
    assert own.name == "beft" and (own == Path("beft") or own.is_file())
    assert shlex.split(own_command("beft", "score", Path("-x y"), "it's"))[1:] == ["score", "./-x y", "it's"]
    assert shlex.split(pip_install("beft[decoders]", "a==1!2"))[-3:] == ["install", "beft[decoders]", "a==1!2"]


def test_databases_are_inside_the_project_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.setenv(name, "")  # what is set below is then taken back, also where there was nothing
        monkeypatch.delenv(name)
    root = tmp_path / ODD
    root.mkdir()
    settings = PipelineSettings()
    connection = connect(settings, root)
    run = connection.client.create_run(connection.experiment).info
    (tmp_path / ODD / "kept.txt").write_text("kept")
    connection.client.log_artifact(run.run_id, str(root / "kept.txt"))
    assert (root / "mlflow" / "mlflow.db").stat().st_size > 0
    assert len(list((root / "mlflow" / "artifacts").rglob("kept.txt"))) == 1
    assert connect(settings, root).client.get_run(run.run_id).info.run_id == run.run_id
    (root / ".prefect").mkdir(exist_ok=True)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    configure_environment(root)
    address = os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert address.startswith("sqlite+aiosqlite:///")
    with create_engine(address.replace("+aiosqlite", "")).begin() as opened:
        opened.execute(text("CREATE TABLE here (number INTEGER)"))
    assert (root / ".prefect" / "prefect.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [ODD]
    assert tracking_uri(settings, tmp_path) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert sqlite_uri(Path("/a/b")) == "sqlite:////a/b"
