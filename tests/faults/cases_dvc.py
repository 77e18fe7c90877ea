"""What a DVC remote holds is missing, not whole, or damaged: said in a line, and mended by pushing again."""

import hashlib
import shutil
from pathlib import Path

import pytest

from beft.errors import BeftError
from beft.files import write_text
from tasks.versioning.dvc import data_versions, fetch_by_md5, push, reproduce
from tests.faults.conftest import Seen
from tests.support.dvc_workspace import dvc_workspace

ROWS = ["fetch@imdb", "prepare@imdb"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with DVC stages whose data is made and not pushed yet."""
    root = dvc_workspace(tmp_path / "workspace")
    reproduce(root, ["prepare@imdb"])
    return root


def kept(root: Path) -> Path:
    """The file of the prepared data in the remote."""
    md5 = hashlib.md5((root / "data/prepared/imdb/rows.txt").read_bytes(), usedforsecurity=False).hexdigest()
    return root / ".dvc-remote" / "files" / "md5" / md5[:2] / md5[2:]


def prepared_md5(root: Path) -> str:
    md5 = data_versions(root, ["imdb"])["imdb"].prepared_md5
    assert md5 is not None
    return md5


def test_the_remote_is_missing(root: Path, seen: Seen) -> None:
    write_text(root / ".dvc-remote", "no folder")
    with pytest.raises(BeftError) as error:
        push(root, ROWS)
    assert "versioning.push to false" in str(error.value)
    assert (root / "data/prepared/imdb/rows.txt").read_text() == "7"
    seen("message", error.value)
    seen("kept", "the data and their hashes in dvc.lock")
    (root / ".dvc-remote").unlink()
    push(root, ROWS)
    assert kept(root).is_file()
    seen("then", "pushed by the next run")


@pytest.mark.parametrize("lost", ["file", "list"])
def test_half_pushed(lost: str, root: Path, tmp_path: Path, seen: Seen) -> None:
    """Of the data's file and the list of its files only one is there."""
    push(root, ROWS)
    md5 = prepared_md5(root)
    missing = kept(root) if lost == "file" else root / ".dvc-remote" / "files" / "md5" / md5[:2] / md5[2:]
    missing.unlink()
    with pytest.raises(BeftError) as error:
        fetch_by_md5(root, md5, tmp_path / "got", cached=False)
    assert "Traceback" not in str(error.value)
    assert not (tmp_path / "got").exists()
    seen("message", error.value)
    seen("kept", "nothing is put together from half of the data")
    push(root, ROWS)
    assert missing.is_file(), "the next run pushes what is missing"
    fetch_by_md5(root, md5, tmp_path / "got", cached=False)
    assert (tmp_path / "got" / "rows.txt").read_text() == "7"
    seen("then", "the next push completes it, and it comes back whole")


def test_a_corrupted_object(root: Path, tmp_path: Path, seen: Seen) -> None:
    push(root, ROWS)
    md5, damaged = prepared_md5(root), kept(root)
    damaged.chmod(0o644)
    damaged.write_text("8")
    with pytest.raises(BeftError) as error:
        fetch_by_md5(root, md5, tmp_path / "got", cached=False)
    assert not (tmp_path / "got").exists()
    seen("message", error.value)
    seen("kept", "the damaged bytes are never used")
    damaged.unlink(missing_ok=True)
    push(root, ROWS)
    fetch_by_md5(root, md5, tmp_path / "got", cached=False)
    assert (tmp_path / "got" / "rows.txt").read_text() == "7"
    shutil.rmtree(tmp_path / "got")
    seen("then", "deleted and pushed again, it comes back whole")
