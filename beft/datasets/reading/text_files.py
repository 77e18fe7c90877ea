"""Open the text files of a source, and name what a file is that is not the text or table it should be."""

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, cast

from beft.datasets.sources import Format, Reading
from beft.errors import InputError

_HEAD = 4096
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PARQUET, _GZIP, _ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
_FOREIGN = (
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (xls): save its sheet as CSV (UTF-8)"),
    (b"BZh", "compressed by bzip2: unpack it, or compress it by gzip"),
    (b"\xfd7zXZ\x00", "compressed by xz: unpack it, or compress it by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it, or compress it by gzip"),
    (b"SQLite format 3\x00", "an SQLite database: export its table as CSV"),
    (b"ARROW1", "an Arrow file: write its table as Parquet"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer, not the data: get the data with 'git lfs pull'"),
    (b"outs:\n- md5:", "a DVC pointer, not the data: get the data with 'dvc pull', and name the file without .dvc"),
)


class ZeroBytesError(InputError):
    """A file holds zero bytes, and nothing says that it is a text of UTF-16 or UTF-32."""


def require_format(path: Path, form: Format) -> None:
    """Refuse a file whose first bytes show that it is something else than what it is read as.

    Raises:
        InputError: The message names what it is, and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    if head.startswith(_GZIP) and form == "parquet":
        raise InputError(f"{path.name} is compressed by gzip, and Parquet is read as it is: unpack it")
    if head.startswith(_GZIP) and path.name.lower().endswith(".gz"):
        try:
            with gzip.open(path) as unpacked:
                head = unpacked.read(_HEAD)
        except (OSError, EOFError, zlib.error):
            return  # what is wrong with it is said when it is read as a whole
    found = _foreign(path, head, form)
    if found:
        raise InputError(f"{path.name} is {found}")


def _foreign(path: Path, head: bytes, form: Format) -> str | None:
    """What a file is in place of the format; None where its first bytes contradict nothing."""
    if not head.strip():
        return "empty" if len(head) < _HEAD else None
    if head.startswith(_GZIP):
        twice = path.name.lower().endswith(".gz")
        return "compressed twice: unpack it once" if twice else "compressed by gzip: let its name end in .gz"
    if head.startswith(_ZIP):
        return _archive(path)
    for mark, what in _FOREIGN:
        if head.startswith(mark):
            return what
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        kind = "an XML document" if text.startswith(b"<?xml") else "an HTML page"
        return f"{kind}, not the data: the download may have met a page of errors or of a login"
    if text.startswith((b'{"', b'[{"')) and form in ("csv", "tsv"):
        kind = "jsonl" if text.startswith(b"{") else "json"
        return f"JSON, not {form.upper()}: say 'format: {kind}' in the source of the description"
    if head.startswith(_PARQUET) and form != "parquet":
        return "a Parquet file: say 'format: parquet' in the source of the description"
    if form == "parquet" and not head.startswith((_PARQUET, b"PARE")):
        return "no Parquet file: say its 'format' in the source of the description"
    return None


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a damaged zip archive: unpack it, and name the files in it"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook (xlsx): save its sheet as CSV (UTF-8)"
    return "a zip archive: unpack it, and name the files in it"


@contextmanager
def text_lines(path: Path, reading: Reading) -> Iterator[Iterator[str]]:
    """The lines of a text file, line ends as they are, without a byte order mark.

    Raises:
        InputError: The file is missing, damaged, or not in its encoding; the message has the line.
    """
    try:
        _require_encoding(path, reading.encoding)
        with _open(path, reading.encoding) as file:
            first = file.readline().removeprefix("\ufeff")
            yield chain([first], file) if first else iter(())
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} cannot be read as a gzip file: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(_undecodable(path, reading.encoding, error)) from None


def _open(path: Path, encoding: str, errors: str = "strict") -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[str], gzip.open(path, "rt", encoding=encoding, errors=errors, newline=""))
    return path.open(encoding=encoding, errors=errors, newline="")


def _require_encoding(path: Path, encoding: str) -> None:
    """Refuse a file of UTF-16 or UTF-32 that is read as something else, or whose order of bytes nothing tells."""
    name = codecs.lookup(encoding).name
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        head = file.read(_HEAD)
    mark = next((family for mark, family in _MARKS if head.startswith(mark)), None)
    if mark is not None and not name.startswith(mark):
        raise InputError(
            f"{path.name} is not {encoding}: it begins with the byte order mark of {mark.upper()}. "
            f"Say 'encoding: {mark}' in the source of the description"
        )
    wide = name.startswith(("utf-16", "utf-32"))
    if mark is None and wide and head and b"\0" not in head:
        raise InputError(
            f"{path.name} is not {encoding}: it holds no zero byte, as every line of such a text does. Say another "
            "'encoding' in the source of the description; without one it is read as UTF-8"
        )
    if mark is not None or b"\0" not in head or name.endswith(("-le", "-be")):
        return
    width = 4 if b"\0\0" in head else 2  # most text has one byte that is not zero in each unit of two, or of four
    likely = f"utf-{8 * width}-{'be' if head.startswith(bytes(1)) else 'le'}"
    raise ZeroBytesError(
        f"{path.name} holds zero bytes and no byte order mark, as {likely} does: say 'encoding: {likely}' in the "
        "source of the description, or remove the bytes where it is no such text"
    )


def _undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> str:
    """What to say of bytes that are no text in an encoding: the first line that has some."""
    lines, byte = 0, ""
    try:
        with _open(path, encoding, "surrogateescape") as file:
            for line in file:
                lines += 1
                escaped = next((character for character in line if "\udc80" <= character <= "\udcff"), "")
                if escaped:
                    byte = f" 0x{ord(escaped) - 0xDC00:02x}"
                    break
    except (
        UnicodeDecodeError
    ):  # of an encoding whose bytes cannot be escaped: somewhere behind the lines that were read
        return (
            f"{path.name} is not {encoding} behind line {lines} ({error.reason}): it is cut, or its 'encoding' in the "
            "source of the description is another"
        )
    usual = ", for example cp1252 (Windows) or latin-1" if codecs.lookup(encoding).name == "utf-8" else ""
    return (
        f"{path.name}, line {lines}: the byte{byte} is not {encoding} ({error.reason}): say the file's 'encoding' in "
        f"the source of the description{usual}"
    )
