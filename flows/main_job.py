"""The main job: what runs when, from raw data to a registered adapter and a report.

A step that is finished already is reused, an interrupted run goes on where it stopped, and one run at a time works in
a folder. ``flows.adapt`` is the job as a Prefect flow; where every step is finished, it needs no Prefect.
"""

import logging
from pathlib import Path
from typing import Any

from flows.runs.adapt_run import AdaptRun
from flows.runs.reused_run import ReusedRun
from flows.runs.run_status import UnfinishedStepError, ending_by_sigterm
from flows.runs.tracked_run import Done
from flows.servers.prefect_server import at_server, named_server
from flows.terminal.logging_setup import log_without_prefect
from flows.terminal.outcome import show
from tasks.engine.supervisor import stopping_commands
from tasks.engine.workspace import Workspace
from tasks.imports import without_collecting
from tasks.run_metadata import check_settings, run_fingerprint
from tasks.settings import PipelineSettings

logger = logging.getLogger(__name__)


def main_job(run: AdaptRun) -> dict[str, Any]:
    """Go through all steps of a run; its ``run.json``.

    Raises:
        InputError: The user's input is wrong.
        BeftError: A step failed.
    """
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
    return run.record


def adapt_dataset(run: AdaptRun, prepared: Done) -> list[Done]:
    """The chain of one dataset, from its prepared data to the evaluation of what was trained: every finished step."""
    validated = run.step("validate", prepared)
    probed = run.step("probe", prepared, after=[validated])
    scored = run.step("score", probed)
    trained = run.step("train", prepared, probed, scored)
    evaluated = run.step("evaluate", prepared, probed, trained)
    return [prepared, validated, probed, scored, trained, evaluated]


def run_main_job(settings: PipelineSettings, root: Path | None = None) -> dict[str, Any]:
    """Run the main job in this process and show on the terminal what came of it.

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

    record = _reuse(settings, workspace)
    if record is None:
        from flows.adapt import adapt

        with at_server(check):
            record = adapt(settings)
    show(record, settings, workspace.root)
    return record


@without_collecting()
def _reuse(settings: PipelineSettings, workspace: Workspace) -> dict[str, Any] | None:
    """Go through a run that has finished before, without Prefect; None where a server of Prefect's is to show it, or
    something has to be made."""
    if named_server() or not workspace.has_finished(run_fingerprint(settings, workspace.root)):
        return None
    check_settings(settings, workspace.root)
    with log_without_prefect(), workspace.locked(), ending_by_sigterm():
        try:
            return main_job(ReusedRun(settings, workspace))
        except UnfinishedStepError as unfinished:
            logger.info("%s is not finished any more: the run goes on with Prefect", unfinished)
            return None
