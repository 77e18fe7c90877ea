"""A look at traffic as an MLflow run, in an experiment of its own."""

import time
from collections.abc import Sequence
from pathlib import Path

from tasks.serving.monitoring import Look
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, in_experiment
from tasks.tracking.entries import Metrics, as_mlflow_text
from tasks.tracking.limits import METRIC, REGISTRY_TEXT, RUN_NAME, as_metric_name
from tasks.tracking.runs import write_batch

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
    own = str(run.info.run_id)
    names = _metric_names([test.name for test, _ in looked.tests])
    metrics: Metrics = [("rows", looked.rows, 0)]
    for name, (test, _) in zip(names, looked.tests, strict=True):
        metrics += [(f"{name}/distance", test.statistic, 0), (f"{name}/p_value", test.p_value, 0)]
    status = "FAILED"
    try:
        write_batch(connection, own, metrics=metrics, time=round(1000 * time.time()))
        client.log_artifacts(own, str(folder))
        status = "FINISHED"
    finally:
        client.update_run(own, status=status)
    return own


def _metric_names(tests: Sequence[str]) -> list[str]:
    """The first part of the names of each test's metrics; no two are the same.

    A label may have characters that MLflow refuses in a name, or be too long for one. Of names that are the same
    without these, the second and further ones are numbered, in the order of the adapter's labels, which stays.
    """
    longest = METRIC - len("/distance")
    found: dict[str, None] = {}
    for test in tests:
        whole = as_metric_name(test).replace(" ", "_")
        name, number = whole[:longest], 1
        while name in found:
            number += 1
            name = f"{whole[: longest - len(f'_{number}')]}_{number}"
        found[name] = None
    return list(found)
