"""Law 10: a registered adapter trained again from its registry entry alone: the same to the byte, or what is other."""

import hashlib
import os
import pty
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from beft.adapters.adapter import Adapter
from beft.adapters.record import RECORD_FILE
from beft.datasets.prepared import load_summary
from beft.errors import BeftError, InputError
from beft.files import read_json, sha256_file, write_text
from flows.cli import status_of
from tasks.engine.fingerprint import contents_sha256
from tasks.engine.provenance import code_version, environment
from tasks.pipeline import dvc_folder
from tasks.project_files import PROJECT
from tasks.registry import rebuild as rebuilding
from tasks.registry.entry import RegistryEntry, Version, versions_named
from tasks.registry.rebuild import bring_data, differences_of, other_circumstances
from tasks.registry.rebuildable import rebuildable
from tasks.source_archive import archive_source, source_of_commit, source_sha256_of, unpack_source
from tasks.tracking.connection import Connection, connect
from tests.support.finished_run import FinishedRun
from tests.support.registration import registered, with_evaluation

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a user", "-c", "user.email=user@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def run(finished_run: FinishedRun, tmp_path: Path) -> FinishedRun:
    """The run over films, certain of its gain, of a source that no commit holds."""
    certain = with_evaluation(finished_run, tmp_path / "certain", baseline=0.6, target=0.9)
    facts = {"commit": None, "dirty": False, "source_sha256": source_sha256_of(PROJECT), "environment": environment()}
    return replace(certain, facts={**finished_run.facts, **facts})


def with_data(run: FinishedRun, **facts: Any) -> FinishedRun:
    """The run with other facts of its data."""
    films = {**run.facts["data"]["films"], **facts}
    return replace(run, facts={**run.facts, "data": {**run.facts["data"], "films": films}})


def in_dvc(run: FinishedRun, project: Path) -> FinishedRun:
    """The run with its data in a DVC remote alone: neither in the workspace nor in its cache."""
    write_text(project / ".dvc" / "config", (PROJECT / ".dvc" / "config").read_text())
    dvc(project, "config", "--local", "core.no_scm", "true")
    place = project / "data" / "prepared" / "films"
    shutil.copytree(run.inputs["prepare/films"], place, ignore=shutil.ignore_patterns("step.json"))
    dvc(project, "add", "--quiet", "data/prepared/films")
    dvc(project, "push", "--quiet")
    stored = yaml.safe_load((place.parent / "films.dvc").read_text())
    found = with_data(run, prepared_md5=stored["outs"][0]["md5"], prepared_sha256=contents_sha256(place))
    for folder in (place, project / ".dvc" / "cache"):
        shutil.rmtree(folder)
    return found


def test_it_is_the_same_to_the_byte_and_a_changed_byte_of_its_data_is_told(
    run: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = in_dvc(run, project)
    write_text(project / "params.yaml", yaml.safe_dump({"datasets": {"films": {}}}))
    monkeypatch.chdir(project)
    model = registered(run, project)
    assert model["champion"]
    client = connect(run.settings, project).client
    assert client.get_model_version(model["name"], "1").tags["rebuild_missing"] == "nothing"
    assert "the folder of its base" in client.get_model_version(model["name"], "1").tags["rebuild_needs"]

    capsys.readouterr()
    assert status_of(["rebuild", f"models:/{model['name']}@champion", "--yes"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"SAME  {model['name']} version 1\n  source    kept with the version\n")
    md5 = run.facts["data"]["films"]["prepared_md5"].removesuffix(".dir")
    assert f"films, md5 {md5} from DVC's" in said
    kept = project / "runs" / "rebuilds" / f"{model['name']}-1"
    adapter, again = run.inputs["train/films"] / "adapter", kept / "adapter"
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in adapter.iterdir()
    }
    found = read_json(kept / "rebuild.json")
    assert found["same"] and found["compute_environment"] == {}
    assert found["rebuilt_sha256"] == read_json(run.inputs["train/films"] / "train.json")["adapter_sha256"]
    assert not (project / "artifacts").exists() and not (project / "data" / "prepared" / "films").exists()

    # One byte of one file of the data, in the cache: the remote has the right one. Then in the remote as well.
    train = kept_by_dvc(run.inputs["prepare/films"] / "train.parquet", project)
    flip_a_byte(train["cache"])
    entry = entry_of(run)
    place = project / "place"
    place.mkdir()
    assert bring_data(entry, place, run.settings, project).endswith("from DVC's remote")
    flip_a_byte(train["remote"])
    shutil.rmtree(place)
    with pytest.raises(InputError, match=r"(?s)the data of films version 1 .*cache or remote holds damaged files"):
        bring_data(entry, place, run.settings, project)


def kept_by_dvc(file: Path, project: Path) -> dict[str, Path]:
    """Where DVC keeps a file, in the cache and in the remote."""
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    below = Path("files", "md5", md5[:2], md5[2:])
    return {"cache": project / ".dvc" / "cache" / below, "remote": project / ".dvc-remote" / below}


def flip_a_byte(path: Path) -> None:
    """Change one byte; the size and the permissions stay."""
    mode = path.stat().st_mode
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(contents)
    path.chmod(mode)


def entry_of(run: FinishedRun, **facts: Any) -> RegistryEntry:
    """What the registry would say of the run."""
    folder = run.inputs["train/films"] / "adapter"
    adapter = Adapter.load(folder)
    settings = run.settings.model_dump(mode="json")
    return RegistryEntry(
        Version("films", "1"), adapter, settings, {**run.facts, **facts}, None, sha256_file(folder / RECORD_FILE)
    )


def test_what_differs_and_why(run: FinishedRun, tmp_path: Path) -> None:
    entry = entry_of(run, environment={**environment(), "torch": "2.0.1"}, compute={"device": "cuda", "threads": 1})
    folder = run.inputs["train/films"] / "adapter"
    assert differences_of(entry, entry.adapter, folder) == []
    other = replace(
        entry.adapter,
        head={name: value + 0.25 for name, value in entry.adapter.head.items()},
        provenance={**entry.adapter.provenance, "best_epoch": 99},
    )
    found = differences_of(entry, other, folder)
    assert any(one.startswith("best epoch: ") and one.endswith("99 here") for one in found)
    assert any(one.startswith("the numbers: by 0.25 at most") for one in found)
    (tmp_path / "beft").mkdir()
    (tmp_path / "tasks").mkdir()
    compute_environment = other_circumstances(entry, entry.adapter, tmp_path)
    assert compute_environment["torch"] == ("2.0.1", environment()["torch"])
    assert compute_environment["device"] == ("cuda", "cpu")
    assert compute_environment["precision"] == ("not recorded", "fp32")
    assert set(compute_environment) == {"torch", "device", "precision", "source"}


SPY = """
import os, pathlib, sys
pathlib.Path({path!r}).write_text("\\n".join(f"{{name}}={{value}}" for name, value in os.environ.items()))
sys.exit(3)
"""


def test_source_of_a_version_runs_only_when_somebody_agrees_and_sees_no_password(
    run: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The source of the version is replaced by one that looks around."""
    secrets = (
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "PGPASSWORD",
        "HF_TOKEN",
        "ANY_OTHER",
    )
    for name in secrets:
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.example")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("HF_HOME", str(project / "hub"))
    monkeypatch.setenv("BEFT_DATA_DIR", str(project / "data"))
    place = project / "data" / "prepared" / "films"
    shutil.copytree(run.inputs["prepare/films"], place, ignore=shutil.ignore_patterns("step.json"))
    write_text(project / "params.yaml", yaml.safe_dump({"datasets": {"films": {}}}))
    monkeypatch.chdir(project)
    name = f"models:/{registered(with_data(run, prepared_sha256=contents_sha256(place)), project)['name']}/1"
    [kept] = (project / "mlflow" / "artifacts").rglob("source.zip")
    write_text(project / "spy" / "beft" / "__init__.py", "")
    write_text(project / "spy" / "tasks" / "__init__.py", "")
    write_text(project / "spy" / "tasks" / "__main__.py", SPY.format(path=str(project / "seen")))
    archive_source(project / "spy", kept)

    capsys.readouterr()
    assert status_of(["rebuild", name]) == 2  # pytest's standard input is no terminal
    said = capsys.readouterr().err
    assert "brings its source along, which differs from the one installed here in" in said
    assert "with your rights: add --yes if you trust whoever registered the version" in said
    assert not (project / "seen").exists()

    answers, terminal = pty.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(answers, b"n\n")
        assert status_of(["rebuild", name]) == 2
        assert "was not rebuilt" in capsys.readouterr().err and not (project / "seen").exists()
        os.write(answers, b"y\n")
        assert status_of(["rebuild", name]) == 1
    os.close(answers)
    assert "probe failed" in capsys.readouterr().err
    seen = dict(line.split("=", 1) for line in (project / "seen").read_text().splitlines() if "=" in line)
    assert not [name for name, value in seen.items() if "s3cret" in value]
    assert seen["HF_HOME"] == str(project / "hub") and seen["BEFT_DATA_DIR"] == str(project / "data")
    assert {"PATH", "HOME", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "CUBLAS_WORKSPACE_CONFIG"} <= seen.keys()


def of_one_run(run: FinishedRun, project: Path, *others: str) -> tuple[str, str]:
    """The id of a run that registered the model and others, of which there are no files; and the model's name."""
    place = project / "data" / "prepared" / "films"
    shutil.copytree(run.inputs["prepare/films"], place, ignore=shutil.ignore_patterns("step.json"))
    write_text(project / "params.yaml", yaml.safe_dump({"datasets": {"films": {}}}))
    name = str(registered(with_data(run, prepared_sha256=contents_sha256(place)), project)["name"])
    client = connect(run.settings, project).client
    run_id = str(client.get_model_version(name, "1").run_id)
    for other in others:
        client.create_registered_model(other)
        client.create_model_version(other, source=(project / "nothing").as_uri(), run_id=run_id)
    return run_id, name


def test_a_version_that_cannot_be_rebuilt_stops_no_other(
    run: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The steps are replaced by what they made in the run, so that nothing is trained."""
    lost, odd = "a-lost", "z-odd"  # one before the model, one after it
    run_id, name = of_one_run(run, project, lost)
    monkeypatch.chdir(project)
    trained = run.inputs["train/films"]

    def done(step: str, entry: RegistryEntry, place: Path) -> float:
        if step == "train":
            shutil.copytree(trained, place / dvc_folder(f"train/{entry.dataset}"))
        return 1.0

    monkeypatch.setattr(rebuilding, "_run", done)
    capsys.readouterr()
    assert status_of(["rebuild", run_id, "--yes"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"SAME  {name} version 1\n")
    heading, *lines = said.err[said.err.index("beft: ") :].splitlines()
    assert heading == "beft: 1 of 2 versions could not be rebuilt:"
    why = f"{lost} version 1 is no adapter that beft registered: there is nothing to rebuild it from"
    assert lines == [f"  - {lost} version 1: {why}"]
    assert status_of(["rebuild", f"{lost}/1", "--yes"]) == 2  # the only one: as it is
    assert capsys.readouterr().err.endswith(f"beft: {why}\n")

    # So it does where one is different.
    with monkeypatch.context() as differing:
        differing.setattr(rebuilding, "differences_of", lambda *_: ["best epoch: 1 there, 2 here"])
        assert status_of(["rebuild", run_id, "--yes"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"DIFFERENT  {name} version 1\n") and "1 of 2 versions" in said.err

    # Nor is whatever else goes wrong with one.
    client = connect(run.settings, project).client
    client.create_registered_model(odd)
    client.create_model_version(odd, source=(project / "nothing").as_uri(), run_id=run_id)
    read = rebuilding.read_entry

    def refusing(connection: Connection, version: Version, folder: Path) -> RegistryEntry:
        if version.model == odd:
            raise ValueError("something else")
        return read(connection, version, folder)

    monkeypatch.setattr(rebuilding, "read_entry", refusing)
    assert status_of(["rebuild", run_id, "--yes"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"SAME  {name} version 1\n")
    assert "beft: 2 of 3 versions could not be rebuilt:\n" in said.err
    assert said.err.endswith(f"\n  - {odd} version 1: ValueError: something else\n")


def test_leaving_at_the_question_ends_the_command(
    run: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, _ = of_one_run(run, project, "z-lost")
    monkeypatch.chdir(project)

    def left(*_: Any, **__: Any) -> bool:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", left)
    answers, terminal = pty.openpty()
    with os.fdopen(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        assert status_of(["rebuild", run_id]) == 1
    os.close(answers)
    said = capsys.readouterr().err
    assert "Aborted" in said and "could not be rebuilt" not in said


@pytest.mark.parametrize(
    ("facts", "origin", "missing", "needs"),
    [
        ({"prepared_md5": "0" * 32}, "files", "", ""),
        ({"prepared_md5": None}, "files", "its data comes from files and DVC does not hold it", ""),
        ({"prepared_md5": None}, "pypi:text-fabric==1", "its data", ""),  # a dataset of the user's own
    ],
)
def test_what_a_rebuild_lacks_is_known_at_once(
    facts: Mapping[str, Any], origin: str, missing: str, needs: str, run: FinishedRun
) -> None:
    run = with_data(run, **facts)
    data = load_summary(run.inputs["prepare/films"])
    data["source"]["origin"] = origin
    adapter = Adapter.load(run.inputs["train/films"] / "adapter")
    found = rebuildable(run.facts, data, adapter, PROJECT, pushed=True)
    assert "; ".join(found.missing).startswith(missing) and bool(found.missing) == bool(missing)
    assert found.needs == (f"the folder of its base ({adapter.base_id[:19]}…)",)
    assert "versioning.push" in rebuildable(run.facts, data, adapter, PROJECT, pushed=False).summary or missing
    changed = {**run.facts, "source_sha256": "0" * 64}
    assert "before it could be kept" in rebuildable(changed, data, adapter, PROJECT, pushed=True).summary
    in_git = {**changed, "commit": "c" * 40}
    assert "before it could be kept" not in rebuildable(in_git, data, adapter, PROJECT, pushed=True).summary


def test_what_cannot_be_rebuilt_does_not_become_champion(run: FinishedRun, project: Path) -> None:
    model = registered(with_data(run, prepared_md5=None), project)
    assert model["aliases"] == ["challenger"]
    assert model["reason"].startswith("no champion, since it cannot be rebuilt: its data comes from files")
    assert "its gain is certain" in model["reason"]
    assert model["rebuild"].startswith("it cannot be rebuilt: its data")
    version = connect(run.settings, project).client.get_model_version(model["name"], "1")
    assert version.tags["rebuild_missing"].startswith("its data comes from files")


def test_names_of_versions_and_runs(run: FinishedRun, project: Path) -> None:
    model = registered(run, project)
    connection = connect(run.settings, project)
    name = model["name"]
    [version] = connection.client.search_model_versions(f"name = '{name}'")
    [parent] = [
        found
        for found in connection.client.search_runs([connection.experiment])
        if "mlflow.parentRunId" not in found.data.tags
    ]
    for said in (f"models:/{name}@champion", f"{name}@challenger", f"models:/{name}/1", f"{name}/1", version.run_id):
        assert versions_named(connection, said) == [Version(name, "1")]
    assert versions_named(connection, f"runs:/{parent.info.run_id}") == [Version(name, "1")]
    with pytest.raises(InputError, match="names no version"):
        versions_named(connection, name)
    for wrong in (f"{name}@nobody", f"{name}/7", "f" * 32):
        with pytest.raises(InputError, match="could not be downloaded from sqlite"):
            versions_named(connection, wrong)
    other = connection.client.create_run(connection.experiment)
    with pytest.raises(InputError, match="registered no adapter"):
        versions_named(connection, other.info.run_id)


def test_kept_source_is_the_source(tmp_path: Path) -> None:
    for name in ("first.zip", "second.zip"):
        archive_source(PROJECT, tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    unpack_source(tmp_path / "first.zip", tmp_path / "out")
    assert source_sha256_of(tmp_path / "out") == source_sha256_of(PROJECT)
    (tmp_path / "first.zip").write_bytes((tmp_path / "first.zip").read_bytes()[:1000])
    with pytest.raises(BeftError, match="cannot be unpacked"):
        unpack_source(tmp_path / "first.zip", tmp_path / "again")


@pytest.mark.parametrize(
    "name",
    [".", "../outside.py", "/tmp/../beft/one.py", "beft/../../two.py", "torch.py", "tasks/__pycache__/step.pyc"],
)
def test_kept_source_that_holds_anything_else_is_not_unpacked(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("beft/inside.py", "")
        archive.writestr(name, "")
    with pytest.raises(BeftError, match="which is no file of beft's source"):
        unpack_source(tmp_path / "evil.zip", tmp_path / "below" / "evil")
    assert not (tmp_path / "below").exists()


@pytest.mark.parametrize("what", ["encrypted", "of an unusual compression", "cut short by LZMA"])
def test_kept_source_that_python_cannot_unpack_is_one_line(tmp_path: Path, what: str) -> None:
    path, lzma = tmp_path / "strange.zip", what == "cut short by LZMA"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if lzma else zipfile.ZIP_STORED) as archive:
        archive.writestr("beft/inside.py", "ONE = 1\n")
    packed = bytearray(path.read_bytes())
    directory = packed.index(b"PK\1\2")
    for flags, method in ((6, 8), (directory + 8, directory + 10)):  # of the file, and of the directory
        if what == "encrypted":
            packed[flags] |= 1
        elif not lzma:
            packed[method] = 97
    if lzma:
        packed[30 + len("beft/inside.py") + 4] = 0xFF
    path.write_bytes(packed)
    with pytest.raises(BeftError, match="cannot be unpacked"):
        unpack_source(path, tmp_path / "out")


def test_the_source_of_a_commit_and_what_is_in_none(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for name in ("beft", "tasks"):
        write_text(repository / name / "one.py", "ONE = 1\n")
    assert code_version(repository).commit is None
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "one")
    before = source_sha256_of(repository)
    commit = git(repository, "rev-parse", "HEAD")
    assert (code_version(repository).commit, code_version(repository).dirty) == (commit, False)
    write_text(repository / "notes.txt", "no source\n")
    assert not code_version(repository).dirty
    write_text(repository / "beft" / "two.py", "TWO = 2\n")
    assert code_version(repository).dirty  # a new file may be imported
    write_text(repository / "beft" / "one.py", "ONE = 2\n")
    source_of_commit(repository, commit, tmp_path / "out")
    assert source_sha256_of(tmp_path / "out") == before
    with pytest.raises(InputError, match=r"is not in .*git fetch"):
        source_of_commit(repository, "0" * 40, tmp_path / "nothing")
