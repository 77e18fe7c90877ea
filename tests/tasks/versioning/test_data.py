"""Which data DVC makes, and how a source that has changed is noticed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.files import write_text
from tasks.__main__ import run
from tasks.settings import PipelineSettings
from tasks.versioning.data import changed_sources, datasets_of_dvc
from tests.support.small_data import DESCRIPTION, SETTINGS, reviews, small_workspace, write_reviews


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with DVC stages whose ``params.yaml`` names two datasets."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "dvc.yaml", "stages: {}\n")
    (tmp_path / ".dvc").mkdir()
    return small_workspace(tmp_path, {"datasets": {**SETTINGS["datasets"], "imdb": {"size": 50}}})


def of_dvc(root: Path, **changes: Any) -> list[str]:
    names = {name.replace("__", "."): value for name, value in changes.items()}
    return datasets_of_dvc(PipelineSettings.read(root / "params.yaml", names), root)


def test_data_that_the_settings_file_asks_for_is_made_by_dvc(root: Path) -> None:
    assert of_dvc(root) == ["mine", "imdb"]
    assert of_dvc(root, seed=7, train__epochs=9, datasets__mine__epochs=2) == ["mine", "imdb"]


def test_data_of_other_settings_never_reaches_dvc(root: Path) -> None:
    assert of_dvc(root, datasets__mine__size=70) == ["imdb"]
    assert of_dvc(root, split__draw=1) == []
    assert of_dvc(root, datasets={"mine": SETTINGS["datasets"]["mine"], "rotten_tomatoes": {}}) == ["mine"]


def test_without_stages_or_settings_there_is_nothing_for_dvc(root: Path) -> None:
    settings = PipelineSettings.read(root / "params.yaml")
    write_text(root / "params.yaml", "datasets: [")
    assert datasets_of_dvc(settings, root) == []
    (root / "dvc.yaml").unlink()
    assert datasets_of_dvc(settings, root) == []


def test_a_changed_source_is_noticed(root: Path) -> None:
    assert changed_sources(root, ["mine"]) == []  # nothing was fetched yet
    run("fetch", "mine", root)
    assert changed_sources(root, ["mine"]) == []

    source = root / "data" / "files" / "mine.csv"
    original = source.read_text()
    write_text(source, original.replace("warm", "mild"))
    assert changed_sources(root, ["mine"]) == ["mine"]

    write_text(source, original)
    path = root / "data" / "datasets" / "mine.yaml"
    write_text(path, yaml.safe_dump(yaml.safe_load(path.read_text()) | {"version": 2}))
    assert changed_sources(root, ["mine"]) == ["mine"]


@pytest.mark.parametrize(
    "source",
    [{"train": "data/files/a.csv", "test": "data/files/b.csv"}, {"train": ["data/files/a.csv", "data/files/b.csv"]}],
)
def test_files_that_were_exchanged_are_noticed(root: Path, source: dict[str, Any]) -> None:
    description = DESCRIPTION | {"source": {"kind": "files", **source}}
    write_text(root / "data" / "datasets" / "mine.yaml", yaml.safe_dump(description))
    mine, first, second = (root / "data" / "files" / f"{name}.csv" for name in ("mine", "a", "b"))
    for path, part in ((first, reviews(240)[:40]), (second, reviews(240)[40:])):
        write_reviews(root, part)
        mine.rename(path)
    run("fetch", "mine", root)
    assert changed_sources(root, ["mine"]) == []
    for path, text in ((first, second.read_text()), (second, first.read_text())):
        write_text(path, text)
    assert changed_sources(root, ["mine"]) == ["mine"]
