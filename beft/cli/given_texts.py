"""The texts that a command is given: as arguments or as lines of stdin, in UTF-8 whatever the locale."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from typer.core import TyperCommand

_BOM = "\ufeff"


class TakesTexts(TyperCommand):
    """A command that is given texts: of one that begins with a dash it says how to write it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; an unknown option may have been meant as a text."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str) and hasattr(error, "possibilities"):
                # Click's NoSuchOption, of which Typer has a copy of its own.
                error.message = f"{message} (a text that begins with a dash stands behind --, after all options)"  # type: ignore[attr-defined]
            raise


def given_texts(arguments: Sequence[str] | None) -> Iterator[str]:
    """The texts among the arguments; without any, the lines of stdin.

    Raises:
        InputError: One of them is not UTF-8; the message says which.
    """
    if not arguments:
        return _stdin_lines()
    return iter([utf8_argument(text, f"text {number}") for number, text in enumerate(arguments, 1)])


def utf8_argument(argument: str, what: str) -> str:
    """An argument of the command line, read as UTF-8: the locale may be one in which Python takes it for other bytes.

    Raises:
        InputError: It is not UTF-8, or no valid Unicode.
    """
    from beft.errors import InputError

    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8: {_where(error)}; convert it, for example with iconv") from None
    except UnicodeEncodeError:
        raise InputError(f"{what} has half a surrogate pair in it, which is no valid Unicode: correct it") from None


def _stdin_lines() -> Iterator[str]:
    from beft.errors import InputError

    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"stdin, line {number}, is not UTF-8: {_where(error)}; convert it, for example with iconv"
            ) from None
        yield (text.removeprefix(_BOM) if number == 1 else text).rstrip("\r\n")


def _where(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} after {error.start} bytes ({error.reason})"


def split_pairs(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """The two texts of each line, which a tab divides.

    Raises:
        InputError: A line has no tab, or several.
    """
    from beft.errors import InputError

    parts = [line.split("\t") for line in lines]
    for line, part in zip(lines, parts, strict=True):
        if len(part) != 2:
            raise InputError(f"--pairs: {len(part) - 1} tabs in {line[:60]!r}; there must be one, between two texts")
    return [part[0] for part in parts], [part[1] for part in parts]


def in_parts(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Items in lists of at most ``size``."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
