"""Commands in messages: they work as they are printed, in the user's shell and folder."""

import shlex
import shutil
import sys
from pathlib import Path

from beft.files import read_json


def own_command(program: str, *arguments: str | Path) -> str:
    """How a program of this environment is called from the current folder, with its arguments quoted for a shell.

    >>> own_command("beft", "score", Path("runs of may"))
    "beft score 'runs of may'"
    """
    return shlex.join([_called(program), *map(_argument, arguments)])


def pip_install(*requirements: str) -> str:
    """How requirements are installed into this environment."""
    pip = ["pip"] if _called("pip") == "pip" else [_called("python"), "-m", "pip"]
    return shlex.join([*pip, "install", *requirements])


def predict_command(adapter: Path, shown: Path, base: str, text: str) -> str:
    """How to predict with a saved adapter, with whatever it needs: a local base, pairs, choices.

    Args:
        adapter: Its folder.
        shown: The folder as it is to be named.
        base: ``base.source`` of its training.
        text: An example.
    """
    record = read_json(adapter / "beft.json")
    needed = record.get("inputs") or {}
    arguments: list[str | Path] = ["predict", shown]
    if record["base"]["id"].startswith("sha256:"):  # of a local folder no name is kept
        arguments += ["--base", Path(base)]
    if needed.get("choices"):
        arguments += ["--choice", "one choice", "--choice", "another choice"]
    if not needed.get("pairs"):
        return own_command("beft", *arguments, *(["--"] if text.startswith("-") else []), text)
    # A tab cannot be typed into a shell; printf makes one in each of them.
    return f"printf '%s\\t%s\\n' {shlex.join([text, text])} | {own_command('beft', *arguments, '--pairs')}"


def _called(program: str) -> str:
    own = Path(sys.executable).parent / program
    found = shutil.which(program)
    if not own.is_file() or (found is not None and Path(found) == own):
        return program
    here = Path.cwd()
    return f"{own.relative_to(here)}" if own.is_relative_to(here) else str(own)


def _argument(argument: str | Path) -> str:
    """An argument; a path that begins with a dash would be taken for an option."""
    if isinstance(argument, Path) and str(argument).startswith("-"):
        return f"./{argument}"
    return str(argument)
