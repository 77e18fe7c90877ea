"""The main job as a Prefect flow: from raw data to a registered adapter and a report.

A step that is finished already is reused, an interrupted run goes on where it stopped, and one run at a time works in
a folder.
"""

import logging
from pathlib import Path
from typing import Any

from tasks.environment import configure_environment

configure_environment()  # Prefect reads its environment when it is imported

from prefect import flow  # noqa: E402

from flows.deployments.deployed import lock_timeout  # noqa: E402
from flows.runs.adapt_run import AdaptRun  # noqa: E402
from flows.runs.flow_run_name import flow_run_name  # noqa: E402
from flows.runs.steps import Done  # noqa: E402
from flows.runs.task_runner import CONFIGURED  # noqa: E402
from flows.servers.prefect_server import at_server  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from flows.terminal.outcome import leave_artifact, show  # noqa: E402
from tasks.engine.supervisor import stopping_commands  # noqa: E402
from tasks.engine.workspace import Workspace  # noqa: E402
from tasks.run_metadata import check_settings  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402

logger = logging.getLogger(__name__)


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
        run = AdaptRun(settings, workspace)
        with run.tracked(), stopping_commands():
            run.start()
            raw = run.fetch()
            valid = run.each(raw, lambda dataset: run.step("validate_raw", raw[dataset]))
            prepared = run.prepare(raw, after=valid)
            chains = run.each(prepared, lambda dataset: adapt_dataset(run, prepared[dataset]))
            run.raise_failure()
            results = [*valid.values(), *(done for chain in chains.values() for done in chain)]
            merged = run.step("merge", *results)
            reported = run.step("report", *results, merged)
            run.register(reported, [*results, merged])
        leave_artifact(run.record)
        return run.record


def adapt_dataset(run: AdaptRun, prepared: Done) -> list[Done]:
    """The chain of one dataset, from its prepared data to the evaluation of what was trained: every finished step."""
    validated = run.step("validate", prepared)
    probed = run.step("probe", prepared, after=[validated])
    scored = run.step("score", probed)
    trained = run.step("train", prepared, probed, scored)
    evaluated = run.step("evaluate", prepared, probed, trained)
    return [prepared, validated, probed, scored, trained, evaluated]


def run_adapt(settings: PipelineSettings, root: Path | None = None) -> dict[str, Any]:
    """Run the flow in this process and show on the terminal what came of it.

    What can be known to be wrong is found out while Prefect's temporary server, which takes ten seconds, starts.

    Args:
        root: The folder to work in; None: the current one. It must be the current one where it is given.

    Raises:
        InputError: Wrong settings, or data that fails its validation.
        BeftError: A step failed, or another run is going on here.
    """
    workspace = Workspace((root or Path.cwd()).resolve())

    def check() -> None:
        check_settings(settings, workspace.root)
        with workspace.locked():
            pass

    with at_server(check):
        record = adapt(settings)
    show(record, settings, workspace.root)
    return record
