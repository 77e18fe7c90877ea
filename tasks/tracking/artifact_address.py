"""Under which address the files of runs stand in the project's database: absolute, since that is what MLflow keeps.

A folder that was moved or copied gets new addresses. One that is only seen under another path, by a container or by a
machine that shares it, keeps the old ones, or each side would write over those of the other: there the old addresses
are translated, in this process.

The project's MLflow server keeps the files of each experiment in a folder of its own, ``mlflow/artifacts/NUMBER``, and
stores an address that only clients of a server understand. Once the database is used directly, it is replaced by that
of the folder.
"""

import logging
import re
import socket
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from beft.files import read_json, write_json

log = logging.getLogger("beft.tracking")

# Every column in which MLflow keeps an absolute address of files.
_ADDRESSES = (
    "UPDATE experiments SET artifact_location = relocate(artifact_location)",
    "UPDATE runs SET artifact_uri = relocate(artifact_uri)",
    "UPDATE logged_models SET artifact_location = relocate(artifact_location)",
    "UPDATE model_versions SET storage_location = relocate(storage_location)",
)

_SERVER = "mlflow-artifacts:"
_LOCATION = re.compile(rf"({_SERVER}|file://.*/mlflow/artifacts)(/\d+)?")
"""The address of an experiment: that of the project's artifacts, or of a folder there if a server made it."""

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


def update_addresses(root: Path, own: str | None, artifacts: str) -> None:
    """Update the stored addresses of files after the project was moved or copied, or used through its MLflow server.

    Args:
        own: The stored address of the experiment in use, from which a move is seen; None: there is none yet.
        artifacts: The address of the project's artifacts.
    """
    with closing(sqlite3.connect(root / "mlflow" / "mlflow.db", timeout=30)) as database, database:
        stored = {
            _project_part(location) for (location,) in database.execute("SELECT artifact_location FROM experiments")
        }
        for old in {_project_part(own or ""), *(stored & {_SERVER})} - {artifacts, ""}:
            if old != _SERVER:
                log.warning("the project was moved here from %s: its addresses in the MLflow database are updated", old)
            relocate = partial(_relocate, old=old, new=artifacts)
            database.create_function("relocate", 1, relocate, deterministic=True)
            for update in _ADDRESSES:
                database.execute(update)


def _project_part(location: str) -> str:
    """What of an experiment's address names the artifacts of a project; empty where its files are in another place."""
    found = _LOCATION.fullmatch(location)
    return found[1] if found else ""


def _relocate(address: str | None, *, old: str, new: str) -> str | None:
    return new + address.removeprefix(old) if address is not None and _is_below(address, old) else address


def _is_below(address: str, folder: str) -> bool:
    return address == folder or address.startswith(f"{folder}/")


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
                if _is_below(artifact_uri, old):
                    artifact_uri = new + artifact_uri.removeprefix(old)
                    break
            super().__init__(artifact_uri, *arguments, **keywords)

    if not _translated:
        for scheme in ("", "file"):
            repositories.register(scheme, Translating)
    _translated[stored] = here
