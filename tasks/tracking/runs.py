"""Runs in MLflow: one parent for each run of the flow, nested ones for what was trained, every one of them once.

Whatever is written is found again by a tag and has the time stamps of the step itself, not of its logging, so writing
it a second time changes nothing: a flow that was killed while it logged goes on with the same runs.
"""

import getpass
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from beft.files import sha256_json
from tasks.engine.declaration import JSON
from tasks.engine.fingerprint import COST
from tasks.engine.store import StepRecord
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect, every, retry_broken_response, translate_errors
from tasks.tracking.data_inputs import dataset_names, log_datasets
from tasks.tracking.entries import Metrics, RunEntry, as_mlflow_text, entries
from tasks.tracking.flat_settings import flat
from tasks.tracking.limits import PARAM, RUN_NAME, TAG

log = logging.getLogger(__name__)

FLOW = "beft.fingerprint"
"""The tag of a parent run: the fingerprint of its run of the flow."""
NESTED = "beft.nested"
"""The tag of a nested run: what it is of its parent, as ``DATASET/METHOD``."""
LOGGED = "beft.logged."
"""Tags of a parent run, one a dataset (and ``run`` for the rest): steps that were written in full, and their marks."""
OUTPUTS = "beft.outputs."
"""Tags of a nested run, one a step that wrote into it: the mark of that step's outputs."""
FAILED = "failed/"
"""What the tag ``NESTED`` begins with of a nested run that stands for a failed step alone: ``failed/STEP/DATASET``."""
FLOW_RUN = "prefect.flow_run"
"""The tag of a parent run: the id of the Prefect flow run that worked on it last."""
FLOW_RUN_PAGE = "prefect.page"
"""The tag of a parent run: the page of that flow run."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run."""


@translate_errors
@retry_broken_response
def open_run(fingerprint: str, settings: PipelineSettings, *, root: Path, facts: Mapping[str, JSON]) -> str:
    """Give the id of the parent run of a run of the flow.

    A finished one is given as it is, an unfinished one is continued, else one is made. This is the first thing that
    touches MLflow, and it makes the database and the experiment where there are none.

    Args:
        fingerprint: Of the run of the flow.
        facts: Data hashes, source hash, commit and the like, which become tags.

    Raises:
        BeftError: MLflow cannot be reached.
    """
    connection = connect(settings, root)
    client = connection.client
    run = find_run(connection, {FLOW: fingerprint})
    if run is not None and run.info.status == "FINISHED":
        return str(run.info.run_id)
    if run is None:
        name = f"{as_mlflow_text(' + '.join(settings.datasets), RUN_NAME - 11)} · {fingerprint[:8]}"
        run = client.create_run(
            connection.experiment, run_name=name, tags={FLOW: fingerprint, "mlflow.user": user_name()}
        )
        log.info("MLflow run %s", run.info.run_id)
    else:
        log.info("MLflow run %s is continued (it was %s)", run.info.run_id, run.info.status)
    parent = str(run.info.run_id)
    tags = _tags(settings, facts)
    if NOTE not in run.data.tags:
        tags[NOTE] = _first_words(run)
    write_batch(connection, parent, params=flat(settings), tags=tags)
    log_datasets(connection, parent, facts, root)
    set_running(connection, run)
    return parent


@translate_errors
@retry_broken_response
def log_data(parent: str, settings: PipelineSettings, *, root: Path, facts: Mapping[str, JSON]) -> None:
    """Write which data a run works on into its parent run, now that the data is there; a finished one stays as it is.

    Args:
        facts: As of ``open_run``, with the data.
    """
    connection = connect(settings, root)
    if connection.client.get_run(parent).info.status == "FINISHED":
        return
    write_batch(connection, parent, tags=_tags(settings, facts))
    log_datasets(connection, parent, facts, root)


def set_running(connection: Connection, run: Any) -> None:
    """Show a parent run as going on; the last thing before it does, so that one that cannot begin is not left so."""
    if run.info.status != "RUNNING":
        connection.client.update_run(run.info.run_id, status="RUNNING")
    if "error" in run.data.tags:
        connection.client.delete_tag(run.info.run_id, "error")


@translate_errors
@retry_broken_response
def log_step(parent: str, record: StepRecord, folder: Path, settings: PipelineSettings, *, root: Path) -> bool:
    """Write what a finished step says into MLflow: metrics, pictures and files, and nested runs for what it trained.

    A second call with the same outputs writes nothing. Where the step was made again with other outputs, the nested
    runs that it wrote into are set aside, and new ones are made.

    Args:
        parent: The parent run, of ``open_run``.
        folder: The step's folder.

    Returns:
        Whether nested runs were set aside: what other steps wrote into them has to be written again.
    """
    connection = connect(settings, root)
    client = connection.client
    run = client.get_run(parent)
    mark, outputs = LOGGED + (record.dataset or "run"), outputs_mark(record.outputs)
    logged = json.loads(run.data.tags.get(mark, "{}"))
    before = logged.get(record.step)
    nested = _nested_runs(connection, parent)
    finished, replaced = milliseconds(record.finished), False
    for entry in entries(record, folder, settings):
        when = finished
        if entry.nested is None:
            if before == outputs:
                continue
            target = parent
            if before is not None:  # what is to be shown is the value with the last time
                when = max([finished, *(1 + time for time in last_times(client, parent, entry.metrics))])
        else:
            there = nested.get(entry.nested)
            shows = there.data.tags.get(OUTPUTS + record.step) if there else None
            if before == outputs == shows:
                continue
            if there is not None and shows not in (None, outputs):
                set_aside(connection, there)
                there, replaced = None, True
            if there is not None and shows is None:  # it was opened when the step started
                client.set_tag(there.info.run_id, "mlflow.runName", as_mlflow_text(entry.title, RUN_NAME))
                entry = replace(entry, metrics=_new_points(client, there, entry.metrics))
            target = _nested(connection, run, entry, there, finished, {OUTPUTS + record.step: outputs})
        _write_entry(connection, run, target, entry, when, {OUTPUTS + record.step: outputs} if entry.nested else {})
        if entry.nested is not None and client.get_run(target).info.status != "FINISHED":
            client.set_terminated(target, "FINISHED", finished)
    if failed := nested.get(f"{FAILED}{record.key}"):
        client.delete_run(failed.info.run_id)
    if before != outputs:
        client.set_tag(parent, mark, json.dumps(logged | {record.step: outputs}))
    return replaced


def _new_points(client: Any, run: Any, metrics: Metrics) -> Metrics:
    """The points of metrics that a run does not show yet: those of its curve came while it was trained."""
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    there = {(name, point.value, point.step) for name, points in histories.items() for point in points}
    return [point for point in metrics if point not in there]


def _write_entry(
    connection: Connection, parent: Any, target: str, entry: RunEntry, when: int, tags: Mapping[str, JSON]
) -> None:
    tags = {**entry.tags, **tags}
    if entry.note:
        tags[NOTE] = f"{_first_words(parent)}\n\n{entry.note}"
    write_batch(connection, target, entry.params, tags, entry.metrics, when)
    for path, place in entry.artifacts:
        if path.is_dir():
            connection.client.log_artifacts(target, str(path), place)
        else:
            connection.client.log_artifact(target, str(path), place)


def outputs_mark(outputs: Mapping[str, str]) -> str:
    """What stands in MLflow for the outputs of a step (path to sha256 of each), but for what it took."""
    return sha256_json({path: sha256 for path, sha256 in outputs.items() if path != COST})[:16]


def set_aside(connection: Connection, run: Any) -> None:
    """Take a nested run from its parent, since what it shows was made again and is other now.

    It is kept: a registered version may have come from it.
    """
    name = run.data.tags.get(NESTED, "")
    title = as_mlflow_text(f"replaced: {name}", RUN_NAME)
    write_batch(connection, run.info.run_id, tags={"beft.replaced": name, "mlflow.runName": title})
    connection.client.delete_tag(run.info.run_id, "mlflow.parentRunId")
    log.warning("%s was made again and is other than before: MLflow shows it as a new run", name)


def last_times(client: Any, run: str, metrics: Metrics) -> list[int]:
    """When each of these metrics was written last."""
    histories = (client.get_metric_history(run, name) for name, _, _ in metrics)
    return [max(point.timestamp for point in points) for points in histories if points]


def _nested_runs(connection: Connection, parent: str) -> dict[str, Any]:
    """The nested runs of a parent run by their names; of several, as ``find_run`` chooses."""
    search, wanted = connection.client.search_runs, f"tags.`mlflow.parentRunId` = '{parent}'"
    found = every(search, [connection.experiment], wanted, order_by=["attributes.start_time ASC"])
    nested: dict[str, Any] = {}
    for run in sorted(found, key=lambda run: run.info.status != "FINISHED"):
        nested.setdefault(run.data.tags.get(NESTED, ""), run)
    return nested


@translate_errors
@retry_broken_response
def close_run(
    parent: str,
    status: Literal["FINISHED", "FAILED", "KILLED"],
    settings: PipelineSettings,
    *,
    root: Path,
    error: str | None = None,
) -> None:
    """End the parent run; one that is finished already stays as it is.

    Args:
        error: What went wrong, shown as a tag and in the run's description.
    """
    connection = connect(settings, root)
    client = connection.client
    if client.get_run(parent).info.status == "FINISHED":
        return
    for run in _nested_runs(connection, parent).values():
        if run.info.status == "RUNNING":  # its step was stopped
            client.set_terminated(run.info.run_id, status)
    if error is not None:
        client.set_tag(parent, "error", as_mlflow_text(error, 500))
    client.set_terminated(parent, status)


@translate_errors
@retry_broken_response
def page_of(parent: str, settings: PipelineSettings, *, root: Path) -> str:
    """The run's page below the address of MLflow's pages, without the host."""
    return f"experiments/{connect(settings, root).client.get_run(parent).info.experiment_id}/runs/{parent}"


def side_by_side_of(run: Any) -> str:
    """The page that shows the nested runs of a parent run side by side, below the address of MLflow's pages."""
    view = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run.info.run_id}'",
        "orderByKey": f"tags.`{NESTED}`",
        "orderByAsc": "true",
        "compareRunsMode": "CHART",
    }
    return f"experiments/{run.info.experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def _first_words(run: Any) -> str:
    """What the description of a parent run begins with."""
    first = f"[All methods side by side](#/{side_by_side_of(run)}). The report is `report.html` among the artifacts."
    page = run.data.tags.get(FLOW_RUN_PAGE)
    return f"{first} [The flow run in Prefect]({page})." if page else first


def nested_run(connection: Connection, parent: str, dataset: str, method: str) -> Any | None:
    """The nested run of a method on a dataset, when there is one."""
    return find_run(connection, {"mlflow.parentRunId": parent, NESTED: f"{dataset}/{method}"})


def find_run(connection: Connection, tags: Mapping[str, str]) -> Any | None:
    """The run with these tags; of several (someone copied one), a finished one before the others, then the oldest."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    search = connection.client.search_runs
    found = every(search, [connection.experiment], wanted, order_by=["attributes.start_time ASC"])
    return min(found, key=lambda run: run.info.status != "FINISHED", default=None)


def _nested(
    connection: Connection, parent: Any, entry: RunEntry, run: Any | None, finished: int, tags: Mapping[str, str]
) -> str:
    """The id of a nested run, the one that is there or a new one, with the times of the step."""
    if run is None:
        run = connection.client.create_run(
            connection.experiment,
            start_time=finished - round(1000 * entry.seconds),
            run_name=as_mlflow_text(entry.title, RUN_NAME),
            tags={
                "mlflow.parentRunId": parent.info.run_id,
                NESTED: str(entry.nested),
                "mlflow.user": user_name(),
                **tags,
            },
        )
    if not run.inputs.dataset_inputs:
        own = [one for one in parent.inputs.dataset_inputs if one.dataset.name in dataset_names(str(entry.dataset))]
        connection.client.log_inputs(run.info.run_id, datasets=own)
    return str(run.info.run_id)


def write_batch(
    connection: Connection,
    run: str,
    params: Mapping[str, JSON] | None = None,
    tags: Mapping[str, JSON] | None = None,
    metrics: Sequence[tuple[str, float, int]] = (),
    time: int = 0,
) -> None:
    """Write in as few and as large requests as MLflow takes."""
    from mlflow.entities import Metric, Param, RunTag

    entities: list[tuple[str, Any]] = [("metrics", Metric(name, value, time, step)) for name, value, step in metrics]
    entities += [("params", Param(name, as_mlflow_text(value, PARAM))) for name, value in (params or {}).items()]
    entities += [
        ("tags", RunTag(name, as_mlflow_text(value, TAG))) for name, value in (tags or {}).items() if value is not None
    ]
    for start in range(0, len(entities), 100):
        portion: dict[str, list[Any]] = {}
        for kind, entity in entities[start : start + 100]:
            portion.setdefault(kind, []).append(entity)
        connection.client.log_batch(run, **portion)


def _tags(settings: PipelineSettings, facts: Mapping[str, JSON]) -> dict[str, JSON]:
    return {
        "base": settings.base.source,
        "dataset": " + ".join(settings.datasets),
        "regime": " + ".join(str(dataset.size) for dataset in settings.datasets.values()),
        "seed": settings.seed,
        "protocol": settings.protocol,
        **{name: facts.get(name) for name in ("commit", "dirty", "source_sha256", "lock_sha256", "run_folder")},
        "requirements_sha256": facts.get("requirements_sha256"),
        "mlflow.source.name": "flows/adapt.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": facts.get("commit"),
    }


def milliseconds(moment: str) -> int:
    return round(1000 * datetime.fromisoformat(moment).timestamp())


def user_name() -> str:
    """Who runs this: the account on the server, else the user of this machine."""
    if account := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return account[:250]
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"
