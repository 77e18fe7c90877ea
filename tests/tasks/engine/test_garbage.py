"""What ``beft gc`` removes, and what it keeps."""

from pathlib import Path

import pytest

from beft.files import write_json, write_text
from flows.cli import status_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with one run, results of its steps and of others, a checkpoint, and a downloaded version."""
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    for name in ("train-mine-1", "train-mine-2", "merge-3", "prepare-mine-4", "score-mine-5", "compare-mine-8"):
        write_text(runs / "steps" / name / "data.bin", "x" * 1000)
    write_text(runs / "checkpoints" / "train-mine-6" / "state", "x")
    write_text(runs / "registered" / "model-1" / "adapter", "x")
    write_text(runs / "promotions" / "mine-7" / "report.md", "kept")
    record("FINISHED", tmp_path)
    (runs / "aaaa" / "merge").symlink_to("../steps/merge-3", target_is_directory=True)
    return tmp_path


def record(status: str, root: Path, folder: str = "runs/steps/train-mine-1") -> None:
    write_json(root / "runs" / "aaaa" / "run.json", {"status": status, "steps": {"train/mine": {"folder": folder}}})


def left(root: Path) -> set[str]:
    return {path.name for path in (root / "runs").glob("*/*") if path.is_dir() and not path.is_symlink()}


SOURCE_ARCHIVE = {"train-mine-1", "prepare-mine-4", "merge-3", "mine-7", "compare-mine-8"}
UNNEEDED = {"train-mine-2", "score-mine-5", "train-mine-6", "model-1"}


def test_it_says_how_much_first_and_removes_with_yes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["gc"]) == 0
    said = capsys.readouterr().out
    assert "in 4 folders can be removed: add --yes" in said and "runs/steps/train-mine-2" in said
    assert left(root) == SOURCE_ARCHIVE | UNNEEDED
    assert status_of(["gc", "--yes"]) == 0
    assert left(root) == SOURCE_ARCHIVE
    assert (root / "runs" / "aaaa" / "merge" / "data.bin").is_file()
    capsys.readouterr()
    assert status_of(["gc", "--yes"]) == 0
    assert "Nothing in runs/ can be removed." in capsys.readouterr().out


def test_checkpoints_stay_while_a_run_can_be_continued(root: Path) -> None:
    record("KILLED", root)
    assert status_of(["gc", "--yes"]) == 0
    assert left(root) == SOURCE_ARCHIVE | {"train-mine-6"}


def test_a_record_that_cannot_be_read_keeps_its_links(root: Path) -> None:
    write_text(root / "runs" / "aaaa" / "run.json", "{")
    assert status_of(["gc", "--yes"]) == 0
    assert left(root) == (SOURCE_ARCHIVE - {"train-mine-1"}) | {"train-mine-6"}
