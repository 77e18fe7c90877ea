"""The nested run of a step while it runs: opened when it starts, with its learning curve, failed where it fails.

``tasks.tracking.runs.log_step`` completes and ends it when the step has finished.
"""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tasks.engine.declaration import JSON, step_key
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, retry_broken_response, translate_errors
from tasks.tracking.entries import CURVES, PROBE, TARGET, as_mlflow_text
from tasks.tracking.limits import RUN_NAME, as_metric_name
from tasks.tracking.runs import FAILED, NESTED, find_run, user_name, write_batch

TRAININGS = {"probe": PROBE, "train": TARGET}
"""The steps that train by epochs, and the method that their nested run stands for."""

_LONGEST_END_SECONDS = 10.0  # MLflow's client itself goes on asking a server that is gone for minutes

log = logging.getLogger(__name__)


@translate_errors
@retry_broken_response
def start_step(parent: str, step: str, dataset: str | None, settings: PipelineSettings, *, root: Path) -> str | None:
    """Open the nested run of a step that trains; the id, None for another step.

    One that was interrupted or failed is continued; one that has finished stays, and a new one is made with the result.
    """
    if step not in TRAININGS:
        return None
    connection = connect(settings, root)
    name = f"{dataset}/{TRAININGS[step]}"
    run = find_run(connection, {"mlflow.parentRunId": parent, NESTED: name})
    if run is not None and run.info.status == "FINISHED":
        return None
    if run is None:
        run = _create(connection, parent, name, f"{TRAININGS[step].replace('_', ' ')} · {dataset}")
    elif run.info.status != "RUNNING":
        connection.client.update_run(run.info.run_id, status="RUNNING")
        if "error" in run.data.tags:
            connection.client.delete_tag(run.info.run_id, "error")
    return str(run.info.run_id)


@translate_errors
@retry_broken_response
def log_epoch(run: str, event: Mapping[str, JSON], metric: str, settings: PipelineSettings, *, root: Path) -> None:
    """Write an epoch of a training into its nested run, as soon as it has ended.

    A pass of one run writes under the names of the final curve. Of several runs, of which dev chooses one in the end,
    each writes under its own name.

    Args:
        event: As ``beft.training.engine.progress.EVENTS`` says it.
        metric: The name of the dev metric.
    """
    epoch = event["epoch"]
    names = {name: written.format(metric=metric) for name, written in CURVES.items()}
    if event["runs"] > 1:
        run_name = as_metric_name(event["run"])
        names = {name: f"trials/{run_name}/{written}" for name, written in names.items()}
    points = [(names[name], epoch[name], epoch["epoch"]) for name in names if epoch.get(name) is not None]
    write_batch(connect(settings, root), run, metrics=points, time=round(1000 * time.time()))


@translate_errors
@retry_broken_response
def fail_step(
    parent: str,
    step: str,
    dataset: str | None,
    error: str,
    settings: PipelineSettings,
    *,
    root: Path,
    status: Literal["FAILED", "KILLED"] = "FAILED",
) -> None:
    """End the nested run of a step that failed, with its error; a step that has none gets one, named as the step."""
    connection = connect(settings, root)
    key = step_key(step, dataset)
    name = f"{dataset}/{TRAININGS[step]}" if step in TRAININGS else f"{FAILED}{key}"
    run = find_run(connection, {"mlflow.parentRunId": parent, NESTED: name})
    if run is None or run.info.status == "FINISHED":
        run = _create(connection, parent, f"{FAILED}{key}", f"failed: {key}")
    connection.client.set_tag(run.info.run_id, "error", as_mlflow_text(error, 500))
    connection.client.set_terminated(run.info.run_id, status)


def _create(connection: Any, parent: str, name: str, title: str) -> Any:
    tags = {"mlflow.parentRunId": parent, NESTED: name, "mlflow.user": user_name()}
    return connection.client.create_run(connection.experiment, run_name=as_mlflow_text(title, RUN_NAME), tags=tags)


class SystemMetrics:
    """The use of processor, memory, disk and GPU of this machine, written into a nested run while its step runs."""

    def __init__(self, run: str, settings: PipelineSettings, root: Path) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        address = connect(settings, root).uri
        self._monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=address)
        self._monitor.start()

    def stop(self) -> None:
        """Write what is left, and end; an MLflow that does not answer is waited for a few seconds only."""
        ending = threading.Thread(target=self._monitor.finish, daemon=True)
        ending.start()
        ending.join(_LONGEST_END_SECONDS)
        if ending.is_alive():
            log.warning("MLflow does not answer: the last system metrics of a training are not in it")
