"""How the commands that our messages name are called where the user works."""

import shutil
import sys
from pathlib import Path

from tasks.project_files import PROJECT

_BY_MAKE = {
    "ui": "ui",
    "deploy": "deploy",
    "worker": "worker",
    "mlflow-server --team": "mlflow-team",
}


def beft_command() -> str:
    """How this environment's ``beft`` is called from the current folder."""
    own = Path(sys.executable).parent / "beft"
    if not own.is_file() or shutil.which("beft") == str(own):
        return "beft"
    here = Path.cwd()
    return str(own.relative_to(here)) if own.is_relative_to(here) else str(own)


def server_command(arguments: str) -> str:
    """How a server or worker is started: with ``make`` in the project's checkout, elsewhere with ``beft``.

    Args:
        arguments: Those of ``beft``, such as ``"ui"``.
    """
    if Path.cwd() == PROJECT and (PROJECT / "Makefile").is_file():
        return f"make {_BY_MAKE[arguments]}"
    return f"{beft_command()} {arguments}"
