"""The addresses of files that the project's MLflow database has stored, and which of them are updated."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("file:///old/mlflow/artifacts", ""),
        ("file:///old/mlflow/artifacts/1", "/1"),
        ("mlflow-artifacts:/1", "/1"),
    ],
)
def test_the_addresses_of_the_project_are_updated_and_no_others(project: Path, own: str, expected: str) -> None:
    here = (project / "mlflow" / "artifacts").as_uri()
    others = {
        "served": ("mlflow-artifacts:/12", f"{here}/12"),
        "longer": ("file:///old/mlflow/artifacts2", "file:///old/mlflow/artifacts2"),
        "within": ("file:///nas/of/old/mlflow/artifacts", "file:///nas/of/old/mlflow/artifacts"),
        "named": ("s3://bucket/mlflow/artifacts/1", "s3://bucket/mlflow/artifacts/1"),
    }
    connection = connect(PipelineSettings(), project)
    runs = {"beft": connection.client.create_run(connection.experiment).info.run_id}
    for name, (stored, _) in others.items():
        runs[name] = connection.client.create_run(connection.client.create_experiment(name, stored)).info.run_id
    with closing(sqlite3.connect(project / "mlflow" / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'beft'", (own,))
        database.execute(
            "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (f"{own}/{runs['beft']}/artifacts", runs["beft"])
        )
    client = connect(PipelineSettings(), project).client
    for name, location in {"beft": here + expected, **{name: new for name, (_, new) in others.items()}}.items():
        assert client.get_experiment_by_name(name).artifact_location == location
        assert client.get_run(runs[name]).info.artifact_uri == f"{location}/{runs[name]}/artifacts"


def test_files_in_another_place_are_no_move(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    connect(PipelineSettings(), project)
    caplog.clear()
    settings = PipelineSettings.from_mapping({"tracking": {"experiment": "own"}})
    client = connect(PipelineSettings(), project).client
    client.create_experiment("own", "file:///nas/runs")
    connect(settings, project)
    assert client.get_experiment_by_name("own").artifact_location == "file:///nas/runs"
    assert "was moved" not in caplog.text
