"""The main job as a Prefect flow: every step is a task of it. ``flows.main_job`` says what runs when."""

from pathlib import Path
from typing import Any

from tasks.environment import configure_environment

configure_environment()  # Prefect reads its environment when it is imported

from prefect import flow  # noqa: E402

from flows.deployments.deployed import lock_timeout  # noqa: E402
from flows.main_job import main_job  # noqa: E402
from flows.runs.flow_run_name import flow_run_name  # noqa: E402
from flows.runs.prefect_run import PrefectRun  # noqa: E402
from flows.runs.task_runner import CONFIGURED  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from flows.terminal.outcome import leave_artifact  # noqa: E402
from tasks.engine.workspace import Workspace  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402


@flow(name="adapt", flow_run_name=flow_run_name, task_runner=CONFIGURED)
def adapt(settings: PipelineSettings) -> dict[str, Any]:
    """From raw data to registered adapters: version, validate, probe, score, train, evaluate, merge, report, register.

    It works in the current folder. What is finished there already is reused.

    Returns:
        The run's ``run.json``: fingerprint, status, facts, what each step took and whether it was reused, models.
    """
    set_up_log()
    workspace = Workspace(Path.cwd())
    with workspace.locked(patience=lock_timeout()):
        record = main_job(PrefectRun(settings, workspace))
        leave_artifact(record)
        return record
