"""What the cases share: one Prefect server, and a run that nothing struck."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.workspace import Faulty, small_faulty

Seen = Callable[[str, object], None]


@pytest.fixture(scope="session", autouse=True)
def _environment(prefect_server: None) -> None:
    """No address of the person who runs the cases."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """A workspace whose run went through at once."""
    workspace = small_faulty(tmp_path_factory.mktemp("undisturbed"))
    assert workspace.run() == 0, workspace.said[-1]
    return workspace


@pytest.fixture
def faulty(tmp_path: Path) -> Faulty:
    """A workspace of the case's own."""
    return small_faulty(tmp_path / "workspace")


@pytest.fixture
def seen(record_property: Seen) -> Seen:
    """Tell the matrix what was seen: ``message``, ``kept``, ``then``."""
    return record_property
