"""How servers and workers are started where the user works."""

from pathlib import Path

from beft.commands import own_command
from tasks.project_files import PROJECT

_BY_MAKE = {
    "ui": "ui",
    "deploy": "deploy",
    "worker": "worker",
    "mlflow-server --team": "mlflow-team",
}


def server_command(arguments: str) -> str:
    """How a server or worker is started: with ``make`` in the project's checkout, elsewhere with ``beft``.

    Args:
        arguments: Those of ``beft``, such as ``"ui"``.
    """
    if Path.cwd() == PROJECT and (PROJECT / "Makefile").is_file():
        return f"make {_BY_MAKE[arguments]}"
    return f"{own_command('beft')} {arguments}"
