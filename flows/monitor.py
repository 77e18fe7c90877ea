"""Monitoring as a Prefect flow: every served model's traffic since the last look, against what it was made for."""

import logging
from pathlib import Path
from typing import Any

from tasks.environment import configure_environment

configure_environment()  # Prefect reads its environment when it is imported

from prefect import flow, task  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.events import emit_event  # noqa: E402

from beft.adapters.adapter import Adapter  # noqa: E402
from beft.errors import SomeFailedError  # noqa: E402
from beft.files import write_json, write_text  # noqa: E402
from beft.serving.reference import DriftReference  # noqa: E402
from flows.runs.artifacts import artifact_key  # noqa: E402
from flows.runs.flow_run_name import flow_run_name  # noqa: E402
from flows.servers.prefect_server import at_server  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from tasks.registry.aliases import CHAMPION  # noqa: E402
from tasks.serving.monitoring import Look, LookState, MonitorRules, look, report_of  # noqa: E402
from tasks.serving.registry_source import RegistrySource, VersionKey  # noqa: E402
from tasks.serving.tracking import log_look  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402
from tasks.tracking.connection import connect, require_registry, translate_errors  # noqa: E402

logger = logging.getLogger(__name__)

DRIFT = "beft.drift"
"""The event of an alarm. Its resource is ``beft.model.NAME``."""
FOLDER = Path("runs", "monitor")


@flow(name="monitor", flow_run_name=flow_run_name)
def monitor(
    settings: PipelineSettings,
    traffic: str = "runs/traffic",
    false_alarms: float = 0.05,
    looks: int = 720,
    min_rows: int = 200,
) -> list[dict[str, Any]]:
    """Look at the traffic of every champion since the last look, and raise an alarm where it is not what it was.

    Args:
        traffic: The folder where a server keeps its answers.
        false_alarms: How probable one false alarm, or more, is over so many looks.
        looks: 720 are a month of hours.
        min_rows: Fewer new rows than this are left for a later look.

    Returns:
        What was found for each model.

    Raises:
        SomeFailedError: Some champions could not be looked at; the others were.
    """
    set_up_log()
    root = Path.cwd()
    require_registry(settings, root)
    rules = MonitorRules(false_alarms, looks, min_rows)
    source = RegistrySource(connect(settings, root), (f"{settings.tracking.model_prefix}-*",), (CHAMPION,))
    keys, found = list(source.poll()), []
    failed: dict[str, Exception] = {}
    for key in keys:
        try:
            found.append(_look(settings, source, key, Path(traffic), rules))
        except Exception as error:  # whatever is wrong with one model, the others are looked at
            failed[f"{key.name} version {key.version}"] = error
    if failed:
        raise SomeFailedError(failed, len(keys), "champions could not be looked at")
    return [one.to_json() for one in found if one is not None]


def run_monitor(settings: PipelineSettings, **parameters: Any) -> list[dict[str, Any]]:
    """Run the flow in this process.

    Raises:
        InputError: Nothing is registered.
        BeftError: MLflow cannot be reached, or some champions could not be looked at.
    """
    require_registry(settings, Path.cwd())
    with at_server():
        found: list[dict[str, Any]] = monitor(settings, **parameters)
    return found


@task(name="look", cache_policy=NO_CACHE, persist_result=False, task_run_name="look/{key.name}")
@translate_errors
def _look(
    settings: PipelineSettings, source: RegistrySource, key: VersionKey, traffic: Path, rules: MonitorRules
) -> Look | None:
    """One model; None where it was registered without a reference."""
    with source.files(key) as files:
        if files.reference is None:
            logger.warning("%s version %s keeps nothing to compare with: register it again", key.name, key.version)
            return None
        reference, adapter = DriftReference.read(files.reference), Adapter.load(files.adapter)
    state = LookState(FOLDER / "state.json")
    since = state.since(key.name, key.version)
    looked = look(
        reference,
        traffic,
        model=key.name,
        version=key.version,
        sha256=adapter.sha256,
        labels=adapter.labels,
        since=since,
        rules=rules,
        choices=adapter.takes_choices,
    )
    if looked.alarm:  # first: it is raised whatever fails below
        raised = [test.name for test, alarm in looked.tests if alarm]
        logger.warning("%s version %s: drift in %s", key.name, key.version, ", ".join(raised))
        emit_event(
            event=DRIFT,
            resource={"prefect.resource.id": f"beft.model.{key.name}", "prefect.resource.name": key.name},
            payload=looked.to_json(),
        )
    report = report_of(looked)
    if looked.tests:
        folder = FOLDER / key.name / f"{looked.until:%Y%m%dT%H%M%S}"
        write_json(folder / "look.json", looked.to_json())
        write_text(folder / "report.md", report)
        log_look(settings, Path.cwd(), looked, folder)
        create_markdown_artifact(markdown=report, key=artifact_key(f"drift-{key.name}"), description="Drift")
    state.note(looked)  # last: a look that was cut short is done again
    return looked
