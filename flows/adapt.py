"""The main job as a Prefect flow: from raw data to a registered adapter and a report.

A step that is finished already is reused, an interrupted run goes on where it stopped, and one run at a time works in
a folder.
"""

import logging
from pathlib import Path
from typing import Any

from tasks.environment import settle

settle()  # Prefect reads its environment when it is imported

from prefect import flow  # noqa: E402

from flows.deployments.deployed import patience  # noqa: E402
from flows.runs.adapt_run import Run  # noqa: E402
from flows.runs.task_runner import task_runner  # noqa: E402
from flows.servers.prefect_server import at_server  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from flows.terminal.outcome import leave_artifact, show  # noqa: E402
from tasks.engine.supervisor import stopping_commands  # noqa: E402
from tasks.engine.workspace import Workspace  # noqa: E402
from tasks.run_metadata import check_settings  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402

logger = logging.getLogger(__name__)


@flow(name="adapt", task_runner=task_runner())
def adapt(settings: PipelineSettings) -> dict[str, Any]:
    """From raw data to registered adapters: version, validate, probe, score, train, evaluate, merge, report, register.

    It works in the current folder. What is finished there already is reused.

    Returns:
        The run's ``run.json``: fingerprint, status, facts, what each step took and whether it was reused, models.
    """
    set_up_log()
    workspace = Workspace(Path.cwd())
    with workspace.locked(patience=patience()):
        run = Run(settings, workspace)
        with run.tracked(), stopping_commands():
            check_settings(settings, workspace.root)
            run.fetch()
            for dataset in settings.datasets:
                run.step("validate_raw", dataset)
            run.prepare()
            run.identify()
            for dataset in settings.datasets:
                run.step("validate", dataset)
            for name in ("probe", "score", "train", "evaluate"):
                run.step_of_each(name)
            run.step("merge")
            run.step("report")
            run.register()
        leave_artifact(run.record)
        return run.record


def run_adapt(settings: PipelineSettings, root: Path | None = None) -> dict[str, Any]:
    """Run the flow in this process and show on the terminal what came of it.

    What can be known to be wrong is found out before Prefect starts its temporary server, which takes ten seconds.

    Args:
        root: The folder to work in; None: the current one. It must be the current one where it is given.

    Raises:
        InputError: Wrong settings, or data that fails its validation.
        BeftError: A step failed, or another run is going on here.
    """
    workspace = Workspace((root or Path.cwd()).resolve())
    check_settings(settings, workspace.root)
    with workspace.locked():
        pass
    with at_server():
        record = adapt(settings)
    show(record, settings, workspace.root)
    return record
