"""Any table or figure of the papers as a Prefect flow: planned, priced, trained, compared, written to ``reports/NAME``.

What is finished already is reused, an interrupted reproduction goes on where it stopped, and what cannot be measured
says why.
"""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tasks.environment import configure_environment

configure_environment()  # Prefect reads its environment when it is imported

from prefect import flow  # noqa: E402

from beft.errors import BeftError  # noqa: E402
from flows.deployments.deployed import lock_timeout  # noqa: E402
from flows.runs.flow_run_name import flow_run_name  # noqa: E402
from flows.runs.reproduction_run import ReproductionRun  # noqa: E402
from flows.runs.task_runner import CONFIGURED  # noqa: E402
from flows.servers.prefect_server import at_server  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from flows.terminal.outcome import show_reproduction  # noqa: E402
from tasks.engine.supervisor import stopping_commands  # noqa: E402
from tasks.engine.workspace import Workspace  # noqa: E402
from tasks.reproduction.catalogue import ReproductionRequest  # noqa: E402
from tasks.reproduction.plan import make_plan  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402

logger = logging.getLogger(__name__)


@flow(name="reproduce", flow_run_name=flow_run_name, task_runner=CONFIGURED)
def reproduce(
    request: ReproductionRequest, settings: PipelineSettings | None = None, plan_only: bool = False
) -> dict[str, Any]:
    """Reproduce one table, figure or analysis in the current folder.

    Args:
        request: What is to be reproduced.
        settings: Of the project; None: those of ``params.yaml``.
        plan_only: Say what it takes, and train nothing.

    Returns:
        The run's ``run.json``: what was planned, measured and reused, what is missing and why, where the report is.
    """
    set_up_log()
    workspace = Workspace(Path.cwd())
    settings = settings or PipelineSettings.read(workspace.root / "params.yaml")
    with workspace.locked(patience=lock_timeout()):
        run = ReproductionRun(request, settings, workspace)
        with nullcontext() if plan_only else run.tracked(), stopping_commands():
            run.make_plan()
            if not plan_only:
                run.start()
            run.prepare()
            run.price()
            if plan_only:
                return run.record
            run.measure()
            run.merge()
            run.report()
        return run.record


def run_reproduce(
    request: ReproductionRequest, settings: PipelineSettings, *, plan_only: bool = False
) -> dict[str, Any]:
    """Run the flow in this process; what can be known to be wrong is found out while Prefect's server starts.

    Raises:
        InputError: A name or setting is wrong, or nothing of it can be measured here.
        BeftError: A measurement failed; the report of the others is written and shown before. Or another run is going
            on here.
    """
    workspace = Workspace(Path.cwd())

    def check() -> None:
        make_plan(request, settings, workspace.root)
        with workspace.locked():
            pass

    with at_server(check):
        record: dict[str, Any] = reproduce(request, settings, plan_only)
    show_reproduction(record, workspace.root)
    if failed := record.get("failed"):
        raise BeftError(
            f"not everything was measured: {failed} failed, for the reasons above; the same command makes these again"
        )
    return record
