"""The source that steps are made of: its hash, kept as one file beside an adapter, and got back from there or from git.

A version whose source is that of a commit names the commit; any other brings its source along.
"""

import io
import lzma
import re
import subprocess
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from beft.errors import BeftError, InputError
from beft.files import sha256_json, sha256_tree, write_bytes
from tasks.environment import environment_without_secrets

SOURCE = ("beft", "tasks")
"""The folders that steps are made of."""

SOURCE_ARCHIVE = "source.zip"
"""The file of a registered model that holds its source, where no commit does."""


def source_sha256_of(project: Path) -> str:
    """The sha256 of all source that steps are made of, as it is now."""
    return sha256_json({name: sha256_tree(project / name) for name in SOURCE})


def archive_source(project: Path, path: Path) -> None:
    """Write the source into one file; the same source gives the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _files(project):
            contents = (project / name).read_bytes()
            archive.writestr(zipfile.ZipInfo(name.as_posix()), contents, zipfile.ZIP_DEFLATED)
    write_bytes(path, packed.getvalue())


def unpack_source(path: Path, folder: Path) -> None:
    """Bring kept source back; whatever the file says, nothing is written outside the folder.

    Raises:
        BeftError: The file is damaged, or holds something that is no source of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            strange = [name for name in archive.namelist() if not _is_source(PurePosixPath(name))]
            if strange:  # Python would import it in place of the module of that name
                raise BeftError(f"the kept source {path.name} holds {strange[0]!r}, which is no file of beft's source")
            archive.extractall(folder)
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise BeftError(f"the kept source {path.name} cannot be unpacked: {error}") from None


def changed_files(folder: Path, project: Path) -> list[str]:
    """The files of a source that are other, missing or new beside those of the project, in their order."""
    ours, others = ({name: (place / name).read_bytes() for name in _files(place)} for place in (project, folder))
    return [name.as_posix() for name in sorted(ours.keys() | others.keys()) if ours.get(name) != others.get(name)]


def _files(project: Path) -> list[PurePosixPath]:
    """The files of a source, relative to its folder, in their order."""
    found = (file for name in SOURCE for file in (project / name).rglob("*") if file.is_file())
    names = sorted(PurePosixPath(file.relative_to(project).as_posix()) for file in found)
    return [name for name in names if _is_source(name)]


def _is_source(name: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    return bool(name.parts) and name.parts[0] in SOURCE and not hidden


def source_of_commit(repository: Path, commit: str, folder: Path) -> None:
    """Bring the files of a commit into a folder; the repository and its working tree stay as they are.

    Raises:
        InputError: The folder is no clone that has the commit, or it is no commit's name.
    """
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):  # a registry's tag: git must not read it as an option
        raise InputError(f"{commit[:80]!r} is not the name of a commit")
    try:
        done = subprocess.run(
            ["git", "archive", "--format=zip", commit],
            cwd=repository,
            env=environment_without_secrets(),
            capture_output=True,
            check=False,
            timeout=300,
        )
    except OSError as error:
        raise InputError(f"git cannot be run ({error.strerror}), and commit {commit[:12]} is needed") from None
    if done.returncode != 0:
        raise InputError(
            f"commit {commit[:12]}, whose source trained it, is not in {repository}: fetch it ('git fetch'), or work "
            "in a clone that has it"
        )
    with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder)
