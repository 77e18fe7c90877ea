"""A new workspace: everything that a run needs is written, and nothing that is there is overwritten."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.errors import InputError
from beft.files import read_json
from flows.cli import status_of
from tasks.__main__ import main
from tasks.project_files import PROJECT, SOURCE_RECORD, start_workspace
from tasks.settings import PipelineSettings
from tasks.versioning.dvc import has_stages, reproduce


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_complete_and_again_without_harm(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    made = start_workspace(folder)
    once = contents(folder)
    assert sorted(once) == made
    assert has_stages(folder)
    assert PipelineSettings.read(folder / "params.yaml") == PipelineSettings.read(PROJECT / "params.yaml")
    for name in ("params.yaml", "prefect.yaml", ".gitignore", ".dvcignore", ".dvc/config", "mlflow/README.md"):
        assert once[name] == (PROJECT / name).read_bytes()
    (folder / "prefect.yaml").unlink()  # as if it had been interrupted
    assert start_workspace(folder) == made
    assert contents(folder) == once


@pytest.mark.parametrize("what", ["a file", "a folder", "a link to nothing"])
def test_nothing_is_overwritten_nor_half_written(tmp_path: Path, what: str) -> None:
    path = tmp_path / "prefect.yaml"
    if what == "a file":
        path.write_text("mine: true\n")
    elif what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"prefect\.yaml would be overwritten.*beft init FOLDER"):
        start_workspace(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    if what == "a file":
        assert path.read_text() == "mine: true\n"


@pytest.mark.parametrize("name", ["mlflow", "data", ".dvc"])
def test_nothing_is_written_where_a_folder_that_it_needs_is_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} would be overwritten"):
        start_workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_files_that_are_there_in_another_encoding_or_with_other_ends_of_lines(tmp_path: Path) -> None:
    ignored = (PROJECT / ".gitignore").read_bytes()
    (tmp_path / ".gitignore").write_bytes(ignored.decode().encode("utf-16"))
    with pytest.raises(InputError, match=r"\.gitignore would be overwritten"):
        start_workspace(tmp_path)
    (tmp_path / ".gitignore").write_bytes(ignored.replace(b"\n", b"\r\n"))
    assert ".gitignore" in start_workspace(tmp_path)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status_of(["run"]) == 2
    assert "beft init starts one" in capsys.readouterr().err
    assert status_of(["deploy"]) == 2
    assert "beft init starts one" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert status_of(["init", "file"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert status_of(["init", "below/it"]) == 0
    assert (tmp_path / "below" / "it" / "params.yaml").is_file()
    assert status_of(["init"]) == 0
    assert "params.yaml\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict models:/name@champion text", "rollback name", "rebuild models:/name/1"])
def test_a_registry_that_is_not_there_is_not_made_by_reading_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    assert status_of(command.split()) == 2
    assert f"nothing is registered in {tmp_path}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_its_stages_depend_on_nothing_outside_of_it(tmp_path: Path) -> None:
    start_workspace(tmp_path)
    stages: dict[str, Any] = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    project: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["source", *project]
    every = {name: stage.get("do", stage) for name, stage in stages.items()}
    made = [
        next(iter(out)) if isinstance(out, dict) else out
        for stage in every.values()
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    for name, stage in every.items():
        if name in ("source", "base"):
            continue
        assert stage["deps"][0] == str(SOURCE_RECORD)
        for needed in stage["deps"]:
            assert any(out == needed or out.startswith(f"{needed}/") for out in made) or (tmp_path / needed).is_dir()
        its = project[name].get("do", project[name])
        kept = [needed for needed in its["deps"] if needed.partition("/")[0] not in ("beft", "tasks")]
        assert stage["deps"][1:] == kept
        assert {part: value for part, value in stage.items() if part != "deps"} == {
            part: value for part, value in its.items() if part != "deps"
        }


@pytest.mark.slow
def test_dvc_runs_a_stage_again_when_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage of the source as it is, and one that depends on it."""
    start_workspace(tmp_path)
    stages: dict[str, Any] = yaml.safe_load((tmp_path / "dvc.yaml").read_text())["stages"]
    fetch = {"cmd": "mkdir raw && echo fetched >> fetched", "deps": [str(SOURCE_RECORD)], "outs": ["raw"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"source": stages["source"], "fetch": fetch}}))
    for _ in range(2):
        reproduce(tmp_path, ["fetch"])
        assert (tmp_path / "fetched").read_text() == "fetched\n"
    record = read_json(tmp_path / SOURCE_RECORD)
    assert set(record) == {"source", "expectations"}
    # Another source, as after an upgrade: the command of the stage finds it first.
    other = tmp_path / "other"
    for name in ("beft", "tasks"):
        (other / name).mkdir(parents=True)
        (other / name / "__init__.py").write_text(f"__path__.append({str(PROJECT / name)!r})\n")
    monkeypatch.setattr("tasks.versioning.dvc.PROJECT", other)
    reproduce(tmp_path, ["fetch"])
    assert read_json(tmp_path / SOURCE_RECORD)["source"] != record["source"]
    assert (tmp_path / "fetched").read_text() == "fetched\nfetched\n"


def test_the_source_is_recorded_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["source"]) == 0
    assert set(read_json(tmp_path / SOURCE_RECORD)) == {"source", "expectations"}
