"""An address with a password goes nowhere: not into settings, not into a message."""

from pathlib import Path

import pytest

from beft.errors import InputError, SettingsError
from tasks.passwords import holds_password
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect

WITH = [
    "http://ann:hidden@127.0.0.1:5000",
    "https://:hidden@mlflow.example",
    "postgresql://beft:hidden@127.0.0.1/mlflow",
    "postgresql://127.0.0.1/mlflow?user=beft&password=hidden",
    "http://ann:hidden@[broken",
]
WITHOUT = [
    "http://127.0.0.1:5000",
    "http://ann@mlflow.example",
    "sqlite:////srv/a@b:c/mlflow.db",
    "postgresql:///mlflow",
]


@pytest.mark.parametrize("address", WITH)
def test_it_is_refused_wherever_it_stands(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holds_password(address)
    with pytest.raises(SettingsError, match=r"tracking\.uri: .*MLFLOW_TRACKING_PASSWORD") as of_settings:
        PipelineSettings.from_mapping({"tracking": {"uri": address}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI holds a password") as of_variable:
        connect(PipelineSettings(), tmp_path)
    assert "hidden" not in str(of_settings.value) + str(of_variable.value)


@pytest.mark.parametrize("address", WITHOUT)
def test_others_are_taken(address: str) -> None:
    assert not holds_password(address)
    assert PipelineSettings.from_mapping({"tracking": {"uri": address}}).tracking.uri == address
