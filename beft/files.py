"""Files that are either wholly there or not there at all, and the hashes that name their contents."""

import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2

_RECENT_NS = 2 * 10**9
"""A file that changed this short a time ago may change again without a sign of it in its times."""


_SURROGATE = re.compile("[\ud800-\udfff]")


def expanded(path: str) -> Path:
    """A path as a user writes it, with ``~`` and ``~NAME`` for home folders.

    Raises:
        ValueError: Nothing says where that home folder is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no home folder of that user; write the path in full") from None


def sha256_file(path: Path) -> str:
    """The sha256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_unchanged(path: Path) -> str:
    """The same; a file that did not change since this process last hashed it is not read again."""
    facts = path.stat()
    changed = max(facts.st_mtime_ns, facts.st_ctime_ns)
    if time.time_ns() - changed < _RECENT_NS:
        return sha256_file(path)
    return _remembered_sha256(path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)


@lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, *facts: int) -> str:
    return sha256_file(path)


def sha256_tree(folder: Path, suffix: str = "") -> str:
    """The sha256 of every file below ``folder`` (name and contents, in the order of the names).

    Byte code, caches and hidden files are left out, so that the hash is the same in every checkout.

    Args:
        suffix: Only files whose name ends so, for example ``".py"``.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if hidden or not path.is_file() or not path.name.endswith(suffix):
            continue
        digest.update(f"{relative.as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file under a temporary name, renamed at the end, so that no reader meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        if _lock(descriptor, Path(name)):
            break
        os.close(descriptor)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, contents: bytes) -> None:
    """Write a file, whole or not at all."""
    with _whole_file(path) as file:
        file.write(contents)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's contents, whole or not at all."""
    with source.open("rb") as original, _whole_file(path) as file:
        shutil.copyfileobj(original, file, 1 << 20)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def is_unicode(value: Any) -> bool:
    """Whether every text of a JSON value can be written: none holds half a surrogate pair."""
    if isinstance(value, str):
        return value.isascii() or not _SURROGATE.search(value)
    if isinstance(value, Mapping):
        return all(map(is_unicode, (*value, *value.values())))
    return not isinstance(value, list | tuple) or all(map(is_unicode, value))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder that takes the name ``path`` when the block ends well.

    The folder that has this name is replaced in one step; when the block raises, it stays as it was. Where the file
    system cannot swap two names, it has another name for a moment, and ``recover_folder`` gives it back its own if the
    process dies then.

    Raises:
        NotADirectoryError: A file has this name.
        OSError: The process works in this folder, or below it.
    """
    path = path.resolve()  # the folder of a link, and a name for "." and ".."
    with suppress(FileNotFoundError):  # of a current folder that was removed
        if Path.cwd().is_relative_to(path):
            reason = "the current folder, or one above it, cannot be replaced; name a new folder"
            raise OSError(errno.EBUSY, reason, str(path))
    with suppress(FileNotFoundError):  # one look: another process may take the name away between two
        if not stat.S_ISDIR(path.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.tmp-*"):
        _remove_unused(leftover)
    temporary, descriptor = _temporary_folder(path)
    try:
        temporary.chmod(0o755)
        yield temporary
        _take_name(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what was replaced, or what was not finished
        os.close(descriptor)


def recover_folder(path: Path) -> None:
    """Give a folder its name again that a process was about to replace when it died."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.old-*"):
        with suppress(OSError):
            if not path.exists():
                aside.rename(path)
        if path.exists():  # else it is the only one that there is
            shutil.rmtree(aside, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Recover what dead processes were replacing below a folder, and remove what they left half-written.

    What a living process writes is left alone.
    """
    for below, folders, files in os.walk(folder):
        for name in (*folders, *files):
            original, _, kind = name.removeprefix(".").rpartition(".")
            if not name.startswith(".") or not original:
                continue
            if kind.startswith("old-"):
                recover_folder(Path(below, original))
            elif kind.startswith("tmp-"):
                _remove_unused(Path(below, name))
        folders[:] = [name for name in folders if ".tmp-" not in name]


def _temporary_folder(path: Path) -> tuple[Path, int]:
    """An empty folder beside ``path``, and the descriptor whose lock says that it is in use."""
    while True:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.tmp-"))
        with suppress(FileNotFoundError):
            descriptor = os.open(temporary, os.O_RDONLY)
            if _lock(descriptor, temporary):
                return temporary, descriptor
            os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    """Mark a temporary file or folder as in use until it is closed; False: another process has removed it before."""
    with suppress(OSError):  # a file system without locks: nothing there is ever taken for unused
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path.exists()


def _remove_unused(path: Path) -> None:
    """Remove a temporary file, folder or link, unless a living process uses it."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _take_name(folder: Path, path: Path) -> None:
    """Give a folder the name ``path``; another folder that has it gets the name of the first, or is removed."""
    try:
        while True:
            if path.exists():
                if _exchange(folder, path):
                    return
                with suppress(FileNotFoundError):
                    path.rename(path.with_name(f".{path.name}.old-{secrets.token_hex(4)}"))
            try:
                folder.rename(path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # else another process has taken the name in between
    finally:
        recover_folder(path)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
