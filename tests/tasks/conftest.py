"""Projects with an empty MLflow database."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.finished_run import FinishedRun


@pytest.fixture
def _no_tracking_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow server of the person who runs the tests."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "MLFLOW_TRACKING_URI" not in os.environ


@pytest.fixture(scope="session")
def _empty_registry(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose MLflow database was just made, which takes seconds: it is made once."""
    from tasks.tracking.connection import connect

    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = tmp_path_factory.mktemp("empty_registry")
    connect(finished_run.settings, root)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before
    return root


@pytest.fixture
def project(_empty_registry: Path, _no_tracking_address: None, tmp_path: Path) -> Path:
    """The folder of a project of the test's own, with an empty MLflow database."""
    root = tmp_path / "project"
    shutil.copytree(_empty_registry, root)
    return root
