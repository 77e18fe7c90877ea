"""A reproduction in MLflow: one parent run, and a nested run for each base, dataset, regime, method and seed.

Parameters are named as in the settings, without the dataset's name in them, and metrics are the same for every method,
so that the pages of MLflow put all nested runs side by side. Whatever is written is found again by a tag, so writing
it a second time changes nothing, and a reproduction that was killed goes on with the same runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tasks.engine.declaration import JSON
from tasks.engine.store import StepRecord
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.reproduction.measured import Failed, Measured, Measurement
from tasks.reproduction.plan import Plan, PlannedMeasurement
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect, in_experiment, retry_broken_response, translate_errors
from tasks.tracking.entries import Metrics, as_mlflow_text
from tasks.tracking.flat_settings import flat
from tasks.tracking.limits import RUN_NAME
from tasks.tracking.runs import (
    FLOW,
    NESTED,
    NOTE,
    OUTPUTS,
    find_run,
    last_times,
    milliseconds,
    outputs_mark,
    set_aside,
    set_running,
    side_by_side_of,
    user_name,
    write_batch,
)

_OUTPUTS = f"{OUTPUTS}measure"


def tracked_in(settings: PipelineSettings) -> PipelineSettings:
    """The settings with the experiment that holds all reproductions, beside that of the main job."""
    return in_experiment(settings, "-reproduce")


@translate_errors
@retry_broken_response
def open_reproduction(
    fingerprint: str,
    request: ReproductionRequest,
    plan: Plan | None,
    settings: PipelineSettings,
    *,
    root: Path,
    facts: Mapping[str, JSON],
) -> str:
    """The id of the parent run: the one that has this fingerprint, or a new one.

    Args:
        plan: None: it ended before it was known. Its parameters are not written then, for MLflow changes none: the
            next time it may end in another place.
        facts: Source hash, commit and the like, which become tags.

    Raises:
        BeftError: MLflow cannot be reached.
    """
    connection = connect(tracked_in(settings), root)
    client = connection.client
    run = find_run(connection, {FLOW: fingerprint})
    bases = plan.bases if plan else {source: source for source in request.models}
    datasets, regimes = (plan.datasets, plan.regimes) if plan else (request.datasets, request.regimes)
    if run is None:
        what = f"{request.name} · {', '.join(bases)}"
        name = f"{as_mlflow_text(what, RUN_NAME - 11)} · {fingerprint[:8]}"
        own = {FLOW: fingerprint, "mlflow.user": user_name()}
        run = client.create_run(connection.experiment, run_name=name, tags=own)
    parent = str(run.info.run_id)
    params: dict[str, JSON] = {}
    if plan is not None:
        params = {name: value for name, value in request.model_dump(mode="json").items() if name != "changes"}
        params |= {"models": list(bases.values()), "datasets": datasets, "regimes": regimes}
        params |= {"methods": plan.methods, **request.changes}
    tags: dict[str, JSON] = {
        "reproduction": request.name,
        "base": ", ".join(bases),
        "dataset": ", ".join(datasets),
        "regime": ", ".join(map(str, regimes)),
        "protocol": request.protocol,
        **{name: value for name, value in facts.items() if not isinstance(value, dict)},
        "mlflow.source.name": "flows/reproduce.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": facts.get("commit"),
        NOTE: f"[All runs side by side](#/{side_by_side_of(run)}). The report is among the artifacts.",
    }
    write_batch(connection, parent, params=params, tags=tags)
    set_running(connection, run)
    return parent


@translate_errors
@retry_broken_response
def log_measurement(
    parent: str,
    planned: PlannedMeasurement,
    measurement: Measurement,
    *,
    made: StepRecord,
    settings: PipelineSettings,
    root: Path,
) -> None:
    """Write a nested run for each record of a measurement; a second call with the same outputs writes nothing.

    A run that failed is one as well: FAILED, with its reason.

    Args:
        made: The record of the step that measured.
        settings: Of the project.
    """
    connection = connect(tracked_in(settings), root)
    runs: list[Measured | Failed] = [*measurement.records, *measurement.failed]
    for record in runs:
        _nested(connection, parent, planned, record, milliseconds(made.finished), outputs_mark(made.outputs))


@translate_errors
@retry_broken_response
def finish_reproduction(
    parent: str,
    status: Literal["FINISHED", "FAILED", "KILLED"],
    settings: PipelineSettings,
    *,
    root: Path,
    metrics: Mapping[str, float] | None = None,
    report: Path | None = None,
    error: str | None = None,
) -> None:
    """End the parent run, with the headline metrics and the report of one that came to its end.

    Args:
        metrics: Name -> value.
        report: The folder of the report.
        error: What went wrong.
    """
    connection = connect(tracked_in(settings), root)
    client = connection.client
    run = client.get_run(parent)
    # A second writing of the same value adds no point to a chart. Of several, MLflow shows that with the last time.
    changed: Metrics = [(name, of, 0) for name, of in (metrics or {}).items() if run.data.metrics.get(name) != of]
    write_batch(
        connection,
        parent,
        metrics=changed,
        time=max([run.info.start_time, *(1 + time for time in last_times(client, parent, changed))]),
        tags={"error": None if error is None else as_mlflow_text(error, 500)},
    )
    if report is not None:
        client.log_artifacts(parent, str(report), "report")
    client.set_terminated(parent, status)


def _nested(
    connection: Connection,
    parent: str,
    planned: PlannedMeasurement,
    record: Measured | Failed,
    finished: int,
    outputs: str,
) -> None:
    status = "FAILED" if isinstance(record, Failed) else "FINISHED"
    client = connection.client
    name = f"{planned.base}/{planned.dataset}/{planned.regime}/{record.key}"
    tags = {"mlflow.parentRunId": parent, NESTED: name}
    run = find_run(connection, tags)
    shows = run.data.tags.get(_OUTPUTS) if run is not None else None
    if run is not None and shows == outputs and run.info.status == status:
        return
    if run is not None and shows not in (None, outputs):
        set_aside(connection, run)
        run = None
    if run is None:
        cost = record.cost if isinstance(record, Measured) else None
        seconds = (cost.seconds if cost else None) or 0.0
        run = client.create_run(
            connection.experiment,
            start_time=finished - round(1000 * seconds),
            run_name=as_mlflow_text(
                f"{planned.dataset} · {planned.regime} · {record.method} · seed {record.seed}", RUN_NAME
            ),
            tags=tags | {"mlflow.user": user_name(), _OUTPUTS: outputs},
        )
    found = _tags(planned, record) | {_OUTPUTS: outputs}
    write_batch(connection, run.info.run_id, _params(planned, record), found, _metrics(record), finished)
    client.set_terminated(run.info.run_id, status, finished)


def _params(planned: PlannedMeasurement, record: Measured | Failed) -> dict[str, JSON]:
    """The settings of a run under the names of the settings; the dataset's own stand below ``dataset``."""
    own = f"datasets.{planned.dataset}."
    rates = [one["learning_rate"] for one in record.trials] if isinstance(record, Measured) else []
    section = "probe." if record.method == "all_biases" else "train."
    shared = ("protocol", "base.", "head.", "split.", section)
    values = flat(planned.settings)
    found = {name: value for name, value in values.items() if name.startswith(shared)}
    found = {name.replace("probe.", "train."): value for name, value in found.items()}
    found |= {name.replace(own, "dataset."): value for name, value in values.items() if name.startswith(own)}
    return (
        found
        | {
            "seed": record.seed,
            "method": record.method,
            "train.learning_rate": record.learning_rate,
            "train.epochs": record.epochs,
        }
        | ({"train.learning_rates": rates} if rates else {})
    )


def _tags(planned: PlannedMeasurement, record: Measured | Failed) -> dict[str, JSON]:
    from beft.settings import TERMS

    return {
        "base": record.base if isinstance(record, Measured) else planned.base,
        "dataset": planned.dataset,
        "regime": planned.regime,
        "method": record.method,
        "term": record.method if record.method in TERMS else None,
        "seed": record.seed,
        "protocol": planned.settings.protocol,
        "error": as_mlflow_text(record.reason, 500) if isinstance(record, Failed) else None,
    }


def _metrics(record: Measured | Failed) -> Metrics:
    """The same names for every method; ``score`` is the headline metric, whatever it is called for the dataset."""
    if isinstance(record, Failed):
        return []
    found: Metrics = [("test/score", record.scores[record.metric], 0)]
    found += [(f"test/{name}", value, 0) for name, value in record.scores.items()]
    names = {
        "train_loss": ("train/loss",),
        "dev_loss": ("dev/loss",),
        "dev_metric": ("dev/score", f"dev/{record.metric}"),
    }
    for epoch in record.history:
        for kept, shown_as in names.items():
            if epoch.get(kept) is not None:
                found += [(name, epoch[kept], epoch["epoch"]) for name in shown_as]
    if record.best_epoch is not None:
        found.append(("usage/best_epoch", record.best_epoch, 0))
    found.append(("usage/trainable_parameters", record.trained_parameters + record.head_parameters, 0))
    if record.cost is not None:
        if record.cost.seconds is not None:
            found.append(("usage/seconds", record.cost.seconds, 0))
        if record.cost.peak_memory_bytes is not None:
            found.append(("usage/peak_memory_megabytes", record.cost.peak_memory_bytes / 1e6, 0))
    for method, value in (record.importance or {}).items():
        if value is not None:
            found.append((f"importance/{method}", value, 0))
    return found
