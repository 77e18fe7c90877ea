"""From an answer back to the data: which adapter gave it, which run trained that, on what, by which source."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.commands import own_command
from tasks.serving.traffic import find_answer
from tasks.tracking.connection import Connection, translate_errors

_FACTS = ("dataset", "term", "data_md5", "commit", "source_sha256", "base", "base_sha256", "settings_sha256", "seed")
"""Tags of a version that say what it was made of."""


@dataclass(frozen=True)
class Traced:
    """Where one answer came from.

    Attributes:
        answer: What is kept of it.
        same: Whether the registry's version of this name still is the adapter that answered; None: it is gone.
        run: The MLflow run that trained it; "" where the version is gone.
        facts: What it was made of.
        rebuild: The command that trains it again; "" where the version is gone.
    """

    answer: Mapping[str, Any]
    same: bool | None
    run: str
    facts: Mapping[str, str]
    rebuild: str


@translate_errors
def trace(connection: Connection, folder: Path, request_id: str) -> list[Traced]:
    """Trace every answer of a request.

    Args:
        folder: Of the traffic.

    Raises:
        InputError: No answer of this request is kept.
    """
    return [_traced(connection, answer) for answer in find_answer(folder, request_id)]


def _traced(connection: Connection, answer: Mapping[str, Any]) -> Traced:
    from mlflow.exceptions import MlflowException

    try:
        version = connection.client.get_model_version(answer["name"], answer["version"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return Traced(answer, None, "", {}, "")
    tags = version.tags
    return Traced(
        answer,
        tags.get("adapter_sha256") == answer["sha256"],
        version.run_id or "",
        {name: tags[name] for name in _FACTS if name in tags},
        own_command("beft", "rebuild", f"models:/{answer['name']}/{answer['version']}"),
    )
