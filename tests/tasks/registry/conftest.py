"""A registry with a model of three versions."""

from pathlib import Path

import pytest

from tasks.registry.aliases import alias_lock
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect

MODEL = "beft-base-films"


@pytest.fixture
def connection(project: Path) -> Connection:
    """A registry with three versions of a model, without any alias."""
    found = connect(PipelineSettings(), project)
    found.client.create_registered_model(MODEL)
    for _ in range(3):
        found.client.create_model_version(MODEL, source=(project / "nothing").as_uri())
    return found


def move(connection: Connection, root: Path, **moves: str | None) -> None:
    with alias_lock(connection, MODEL, root) as turn:
        turn.move(moves, subject=sorted(moves.items()), reason="a test")
