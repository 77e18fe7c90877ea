"""Files and folders that are replaced whole: a process killed at any moment leaves the old one or the new one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beft import files
from beft.files import atomic_directory, write_text

PROJECT = Path(__file__).resolve().parent.parent.parent

# Replaces the folder, and kills itself before the n-th change of a name on disk.
REPLACE = """
import os, signal, sys
from pathlib import Path
from beft import files

folder, moment, swaps = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "swap"
if not swaps:
    files._exchange = lambda one, other: False  # a file system that cannot swap two names, such as NFS
seen = 0

def killing(event, arguments):
    global seen
    if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "ctypes.dlsym", "ctypes.set_errno"):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(killing)
with files.atomic_directory(folder) as out:
    for name in ("a", "b"):
        (out / name).write_text("new")
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("way", ["swap", "rename"])
def test_a_folder_that_is_replaced_is_the_old_or_the_new_one_at_any_moment(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    found = set()
    for moment in range(1, 40):
        folder.mkdir(exist_ok=True)
        for name in ("a", "b"):
            (folder / name).write_text("old")
        done = subprocess.run(
            [sys.executable, "-c", REPLACE, str(folder), str(moment), way],
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            check=False,
        )
        if way == "rename":
            files.recover_folder(folder)
        assert contents(folder) in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"}), moment
        found.add((folder / "a").read_text())
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert moment > 4 and done.returncode == 0
    assert found == {"old", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"], "what dead processes left was cleared away"


def test_a_folder_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "report" / "a", "old")
    with pytest.raises(ValueError, match="inside"), atomic_directory(tmp_path / "report") as out:
        write_text(out / "a", "new")
        raise ValueError("inside")
    assert contents(tmp_path / "report") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_the_only_copy_is_kept_where_it_cannot_get_its_name_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / ".report.old-12ab" / "a", "old")

    def refused(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        files.recover_folder(tmp_path / "report")
    assert contents(tmp_path / ".report.old-12ab") == {"a": "old"}
    files.recover_folder(tmp_path / "report")
    assert contents(tmp_path / "report") == {"a": "old"}


def test_a_file_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "report", "a file")
    with pytest.raises(NotADirectoryError), atomic_directory(tmp_path / "report"):
        pass
    assert (tmp_path / "report").read_text() == "a file"


@pytest.mark.parametrize("name", [".", "", "..", "new/..", "/"])
def test_the_current_folder_and_those_above_it_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(name), Path(name).resolve()):
        with pytest.raises(OSError, match="the current folder, or one above it, cannot"), atomic_directory(path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["here"] and contents(tmp_path / "here") == {}


def test_a_name_by_way_of_another_folder_is_the_folder_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "report" / "charts" / "a", "old")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_directory(tmp_path / "report" / "charts" / "..") as out:
        write_text(out / "b", "new")
    assert contents(tmp_path / "report") == {"b": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "report"]


def test_a_folder_is_written_where_the_current_one_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with atomic_directory(tmp_path / "report") as out:
        write_text(out / "a", "new")
    assert contents(tmp_path / "report") == {"a": "new"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write_text(tmp_path / "large-disk" / "a", "old")
    (tmp_path / "report").symlink_to("large-disk")
    with atomic_directory(tmp_path / "report") as out:
        write_text(out / "a", "new")
    assert (tmp_path / "report").is_symlink()
    assert contents(tmp_path / "large-disk") == {"a": "new"}


WRITE = """
import sys
from pathlib import Path
from beft.files import _whole_file, atomic_directory

with atomic_directory(Path(sys.argv[1], "folder")) as out, _whole_file(Path(sys.argv[1], "file")) as file:
    sys.stdout.write("writing\\n"); sys.stdout.flush(); sys.stdin.read()
    (out / "a").write_text("new")
    file.write(b"new")
"""


def test_leftovers_of_dead_processes_are_cleared_away_and_living_ones_are_let_alone(tmp_path: Path) -> None:
    live, dead = (
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    )
    for process in (live, dead):
        assert process.stdout and process.stdout.readline() == b"writing\n"
    dead.kill()
    dead.communicate()
    assert len(list(tmp_path.iterdir())) == 4
    files.clear_leftovers(tmp_path.parent)
    assert len(list(tmp_path.iterdir())) == 2
    live.communicate(b"")
    assert live.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}
    assert contents(tmp_path / "folder") == {"a": "new"}


def test_processes_that_replace_the_same_folder_at_once_all_end_well(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom beft import files\n"
        "if sys.argv[2] == 'rename':\n    files._exchange = lambda one, other: False\n"
        "for number in range(500):\n"
        "    with files.atomic_directory(Path(sys.argv[1])) as out:\n        (out / 'a').write_text('whole')\n"
    )
    for way in ("swap", "rename"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / way), way], env=os.environ | {"PYTHONPATH": str(PROJECT)}
            )
            for _ in range(3)
        ]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        assert contents(tmp_path / way) == {"a": "whole"}
