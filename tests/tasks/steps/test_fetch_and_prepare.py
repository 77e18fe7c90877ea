"""The steps fetch and prepare: what they declare, and that they see the workspace that they run in."""

from pathlib import Path

import pytest

from beft.datasets.prepared import load_split
from beft.errors import InputError
from tasks.engine.settings_view import restrict_settings
from tasks.settings import PipelineSettings
from tasks.steps.fetch import fetch, fetch_step
from tasks.steps.prepare import prepare, prepare_step
from tests.beft.datasets.small import describe, texts, write_jsonl

SETTINGS = PipelineSettings.from_mapping(
    {"datasets": {"own": {"size": "low"}}, "split": {"test_rows": 40, "gate_rows": 40}}
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a dataset of its own."""
    describe(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", texts(200))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_file_to_splits(workspace: Path) -> None:
    raw, out = workspace / "raw", workspace / "prepared"
    raw.mkdir()
    out.mkdir()
    summary = fetch(restrict_settings(SETTINGS, fetch_step.settings, "own"), {}, raw, dataset="own")
    assert summary == {"origin": "files", "bytes": (workspace / "rows.jsonl").stat().st_size}
    summary = prepare(restrict_settings(SETTINGS, prepare_step.settings, "own"), {"fetch": raw}, out, dataset="own")
    assert summary["rows"] == {"train": 48, "dev": 12, "gate": 40, "test": 40}
    assert len(load_split(out, "train")) == 48


def test_fetch_watches_the_description_and_the_files(workspace: Path) -> None:
    assert fetch_step.extra_inputs is not None
    before = fetch_step.extra_inputs(SETTINGS, "own", workspace)
    write_jsonl(workspace / "rows.jsonl", texts(201))
    after = fetch_step.extra_inputs(SETTINGS, "own", workspace)
    assert {name for name in before if before[name] != after[name]} == {"train/rows.jsonl"}
    describe(workspace, version=2)
    assert fetch_step.extra_inputs(SETTINGS, "own", workspace)["description"] != after["description"]


def test_a_missing_file_is_wrong_input(workspace: Path) -> None:
    (workspace / "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"there is no file .*rows\.jsonl"):
        fetch(SETTINGS, {}, workspace / "raw", dataset="own")
