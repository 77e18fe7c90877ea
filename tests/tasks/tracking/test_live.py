"""What MLflow shows of a step's use of the machine while it runs."""

import time
from pathlib import Path

import pytest

from flows.runs.live_tracking import LiveTracking
from tasks.engine.store import StepRun
from tasks.pipeline import find_step
from tasks.tracking.connection import connect
from tasks.tracking.live import SystemMetrics
from tasks.tracking.runs import nested_run, open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.servers.mlflow_server import MlflowServer
from tests.support.waiting import wait_until


def test_the_system_metrics_of_a_training_are_in_its_nested_run(
    finished_run: FinishedRun, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that trains is watched from its start to its end; another has no nested run of its own, and is not."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    settings = finished_run.settings
    live = LiveTracking(settings, project, post=lambda write: write())
    live.parent = parent = open_run(FINGERPRINT, settings, root=project, facts=finished_run.facts)
    connection = connect(settings, project)
    for step in ("score", "train"):
        live.listen(StepRun(find_step(step), settings, finished_run.inputs, project, "films"), {"started": True})
    run = nested_run(connection, parent, "films", "target")
    assert run is not None and run.info.status == "RUNNING"

    def shown() -> set[str]:
        return {name for name in connection.client.get_run(run.info.run_id).data.metrics if name.startswith("system/")}

    wait_until(shown, 60)
    live.end("score/films")
    live.end("train/films")
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= shown()
    assert any(name.startswith("system/disk_") for name in shown())
    points = connection.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert all(0 <= point.value <= 100 for point in points)
    assert [point.step for point in points] == list(range(len(points)))
    runs = connection.client.search_runs([connection.experiment])
    assert {found.info.run_id for found in runs} == {parent, run.info.run_id}
    assert not connection.client.get_run(parent).data.metrics


@pytest.mark.server
def test_a_server_that_is_gone_does_not_hold_up_the_end_of_a_training(
    finished_run: FinishedRun, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own monitor asks it for minutes (here for one, so that the test leaves nothing behind for long)."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    server = MlflowServer(tmp_path)
    server.start()
    try:
        server.wait()
        settings = finished_run.settings.model_copy(
            update={"tracking": finished_run.settings.tracking.model_copy(update={"uri": server.address})}
        )
        parent = open_run(FINGERPRINT, settings, root=project, facts=finished_run.facts)
        metrics = SystemMetrics(parent, settings, project)
    finally:
        server.kill()
    time.sleep(1)  # the monitor meets the silence
    began = time.monotonic()
    metrics.stop()
    assert time.monotonic() - began < 30
