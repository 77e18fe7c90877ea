"""Under which address the files of runs stand in the project's database: absolute, since that is what MLflow keeps.

A folder that was moved or copied gets new addresses. One that is only seen under another path, by a container or by a
machine that shares it, keeps the old ones, or each side would write over those of the other: there the old addresses
are translated, in this process.
"""

import socket
from pathlib import Path
from typing import Any

from beft.files import read_json, write_json

_RECORD = ".address.json"
_translated: dict[str, str] = {}  # address in the database -> address here


def address_of_files(root: Path) -> str:
    """The address of a project's artifacts in its database, for what is written now as well."""
    folder = root.resolve() / "mlflow" / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    here, record = folder.as_uri(), folder / _RECORD
    known = _read(record)
    stored = str(known.get("address", here))
    if stored != here and _is_seen_elsewhere(folder, known):
        _translate(stored, here)
        return stored
    if stored != here or not known:
        write_json(record, {"address": here, "path": str(folder), "inode": folder.stat().st_ino, **_view()})
    return here


def _is_seen_elsewhere(folder: Path, known: dict[str, Any]) -> bool:
    """Whether this is the same folder as the one at the known address, which has not moved from there."""
    there = Path(str(known.get("path", "")))
    if there.is_dir():
        return there.samefile(folder)  # both paths are there, on this machine
    return known.get("inode") == folder.stat().st_ino and any(known.get(key) != of for key, of in _view().items())


def _view() -> dict[str, str | None]:
    """What tells this machine's, or this container's, view of the file system from that of others."""
    try:
        mounts = str(Path("/proc/self/ns/mnt").readlink())
    except OSError:
        mounts = None
    return {"host": socket.gethostname(), "mounts": mounts}


def _read(record: Path) -> dict[str, Any]:
    try:
        known = read_json(record)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _translate(stored: str, here: str) -> None:
    """Have MLflow's client find below ``here`` what its database has below ``stored``, from now on."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as repositories
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    class Translating(LocalArtifactRepository):  # type: ignore[misc, unused-ignore]
        def __init__(self, artifact_uri: str, *arguments: Any, **keywords: Any) -> None:
            for old, new in _translated.items():
                if artifact_uri == old or artifact_uri.startswith(f"{old}/"):
                    artifact_uri = new + artifact_uri.removeprefix(old)
                    break
            super().__init__(artifact_uri, *arguments, **keywords)

    if not _translated:
        for scheme in ("", "file"):
            repositories.register(scheme, Translating)
    _translated[stored] = here
