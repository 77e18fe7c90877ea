"""A look at traffic as an MLflow run, in an experiment of its own."""

from pathlib import Path

from tasks.serving.monitoring import Look
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, in_experiment
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT, RUN_NAME

_SUFFIX = "-monitor"
_ABOUT = "Looks at the traffic of served models: one run for each, with its distances and p-values."


def log_look(settings: PipelineSettings, root: Path, looked: Look, folder: Path) -> str:
    """Log a look; the id of its run.

    Args:
        folder: Its report.
    """
    connection = connect(in_experiment(settings, _SUFFIX), root, about=_ABOUT)
    client = connection.client
    tags = {
        "model": looked.model,
        "version": looked.version,
        "alarm": str(looked.alarm),
        "since": str(looked.since),
        "until": str(looked.until),
    }
    run = client.create_run(
        connection.experiment,
        run_name=as_mlflow_text(f"{looked.model} {looked.until:%Y-%m-%d %H:%M}", RUN_NAME),
        tags={name: as_mlflow_text(value, REGISTRY_TEXT) for name, value in tags.items()},
    )
    for test, _ in looked.tests:
        name = test.name.replace(",", "").replace(" ", "_")
        client.log_metric(run.info.run_id, f"{name}/distance", test.statistic)
        client.log_metric(run.info.run_id, f"{name}/p_value", test.p_value)
    client.log_metric(run.info.run_id, "rows", looked.rows)
    client.log_artifacts(run.info.run_id, str(folder))
    client.update_run(run.info.run_id, status="FINISHED")
    return str(run.info.run_id)
