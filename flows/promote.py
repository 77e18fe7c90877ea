"""The promotion as a Prefect flow: challenger and champion of each dataset on the gate rows, and what comes of it."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tasks.environment import configure_environment

configure_environment()  # Prefect reads its environment when it is imported

from prefect import Task, flow  # noqa: E402
from prefect.artifacts import create_markdown_artifact  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402

from beft.datasets.registry import find_dataset  # noqa: E402
from beft.errors import SomeFailedError  # noqa: E402
from beft.files import sha256_json  # noqa: E402
from beft.models.reference import resolve_base  # noqa: E402
from flows.deployments.deployed import lock_timeout  # noqa: E402
from flows.runs.artifacts import artifact_key  # noqa: E402
from flows.runs.flow_run_name import flow_run_name  # noqa: E402
from flows.runs.prefect_run import PrefectRun  # noqa: E402
from flows.runs.steps import run_through_prefect  # noqa: E402
from flows.servers.prefect_server import at_server  # noqa: E402
from flows.terminal.logging_setup import set_up_log  # noqa: E402
from tasks.engine.supervisor import stopping_commands  # noqa: E402
from tasks.engine.workspace import Workspace  # noqa: E402
from tasks.model_name import model_name  # noqa: E402
from tasks.registry.gate import GateDecisions  # noqa: E402
from tasks.registry.promote import Decision, candidates, decide_without_rows, fetch_candidates, report_of  # noqa: E402
from tasks.registry.promote import decide as decide_on  # noqa: E402
from tasks.registry.promote import promote as decide  # noqa: E402
from tasks.run_metadata import check_settings  # noqa: E402
from tasks.serving.traffic_comparison import compare_on_traffic, traffic_rows_id  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402
from tasks.steps.compare import compare_step  # noqa: E402
from tasks.tracking.connection import connect, translate_errors  # noqa: E402

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class NotAllJudgedError(SomeFailedError):
    """Some datasets could not be judged; what was decided on the others stands.

    Args:
        decided: The decisions on the others, as JSON.
        failed: Dataset to why not.
    """

    def __init__(self, decided: Sequence[dict[str, Any]], failed: Mapping[str, Exception]) -> None:
        self.decided = list(decided)
        super().__init__(failed, len(decided) + len(failed), "datasets could not be judged")


@flow(name="promote", flow_run_name=flow_run_name)
def promote(settings: PipelineSettings, challenger: str | None = None) -> list[dict[str, Any]]:
    """Judge the challenger of every dataset against its champion, on rows that neither was trained on, and act on it.

    Args:
        challenger: A version or an alias; None: the alias ``challenger``.

    Returns:
        The decision on each dataset.

    Raises:
        NotAllJudgedError: Some datasets could not be judged; the others were.
    """
    set_up_log()
    workspace = Workspace(Path.cwd())
    check_settings(settings, workspace.root)
    with workspace.locked(patience=lock_timeout()), stopping_commands():
        run = PrefectRun(settings, workspace)
        run.prepare(run.fetch())
        decisions, failed = _of_each(settings.datasets, lambda dataset: _judge(run, dataset, challenger))
    for decision in decisions:
        create_markdown_artifact(
            markdown=report_of(decision),
            key=artifact_key(f"promotion-{decision.candidates.model}"),
            description="The verdict",
        )
    return _as_json(decisions, failed)


def run_promote(settings: PipelineSettings, challenger: str | None = None) -> list[dict[str, Any]]:
    """Run the flow in this process.

    Raises:
        InputError: Wrong settings, or no such model or version.
        BeftError: Another process is deciding, or a step failed.
        NotAllJudgedError: That is so for some datasets; the others were judged.
    """
    check_settings(settings, Path.cwd())
    connection = connect(settings, Path.cwd())
    there, missing = _of_each(
        settings.datasets, lambda dataset: candidates(connection, registered_name(settings, dataset), challenger)
    )
    if not there:
        _as_json([], missing)
    with at_server():
        found: list[dict[str, Any]] = promote(settings, challenger)
    return found


def promote_on_traffic(
    settings: PipelineSettings,
    root: Path,
    traffic: Path,
    *,
    challenger: str | None = None,
    since: datetime | None = None,
) -> list[dict[str, Any]]:
    """Judge the challenger of every dataset against its champion on labelled traffic, and act on it.

    Args:
        traffic: The folder where a server keeps its answers.
        challenger: A version or an alias; None: the alias ``challenger``.
        since: Answers of before are left out.

    Returns:
        The decision on each dataset.

    Raises:
        InputError: No such model or version, or too few labelled rows that both answered.
        RegistryBusyError: Another process is deciding.
        NotAllJudgedError: That is so for some datasets; the others were judged.
    """
    connection = connect(settings, root)

    @translate_errors
    def judge(dataset: str) -> Decision:
        found = candidates(connection, registered_name(settings, dataset), challenger)
        if held := decide_without_rows(connection, found, on_traffic=True):
            return held
        models = fetch_candidates(connection, found, root / "runs" / "registered")
        metric = find_dataset(dataset, root).metric
        compared = compare_on_traffic(settings, found, models, traffic, metric=metric, since=since)
        out = root / "runs" / "promotions" / f"{dataset}-traffic-{sha256_json(compared)[:16]}"
        return decide_on(settings, found, compared, rows_id=traffic_rows_id(found.model), out=out, root=root)

    return _as_json(*_of_each(settings.datasets, judge))


def registered_name(settings: PipelineSettings, dataset: str) -> str:
    """The registered model of the settings' base and a dataset."""
    return model_name(settings.tracking.model_prefix, resolve_base(settings.base.source).portable_id, dataset)


def _of_each(datasets: Iterable[str], work: Callable[[str], Result]) -> tuple[list[Result], dict[str, Exception]]:
    """The results of a work for each dataset, and the errors by dataset: one of them stops no other."""
    results, failed = [], {}
    for dataset in datasets:
        try:
            results.append(work(dataset))
        except Exception as error:  # whatever is wrong with one
            failed[dataset] = error
    return results, failed


def _as_json(decisions: Sequence[Decision], failed: Mapping[str, Exception]) -> list[dict[str, Any]]:
    """The decisions, where there is one on every dataset; else what is wrong is raised: of an only one, as it is."""
    decided = [decision.to_json() for decision in decisions]
    if not decided and len(failed) == 1:
        [error] = failed.values()
        raise error
    if failed:
        raise NotAllJudgedError(decided, failed)
    return decided


@translate_errors
def _judge(run: PrefectRun, dataset: str, challenger: str | None) -> Decision:
    if dataset in run.failures:
        raise run.failures[dataset]  # its data could not be made
    settings, root = run.settings, run.root
    connection = connect(settings, root)
    found = candidates(connection, registered_name(settings, dataset), challenger)
    if held := decide_without_rows(connection, found):
        return held
    GateDecisions(settings, root)  # what keeps it from taking a decision is known before the versions are compared
    inputs = {"prepare": run.folders[f"prepare/{dataset}"]}
    inputs |= fetch_candidates(connection, found, root / "runs" / "registered")
    compared = run_through_prefect(compare_step, settings, inputs, root, dataset).folder
    deciding = Task(fn=decide, name="promote", cache_policy=NO_CACHE, persist_result=False)
    out = root / "runs" / "promotions" / f"{dataset}-{compared.name.rsplit('-', 1)[-1]}"
    decision: Decision = deciding(settings, found, compared=compared, prepared=inputs["prepare"], out=out, root=root)
    return decision
