"""The pages of a run in Prefect and in MLflow, each with a link to the other."""

from pathlib import Path

from tasks.settings import PipelineSettings
from tasks.tracking.address import pages_of
from tasks.tracking.connection import connect, retry_broken_response, tracking_uri, translate_errors
from tasks.tracking.runs import FLOW_RUN, FLOW_RUN_PAGE, write_batch

LOCAL_PREFECT = "http://127.0.0.1:4200"  # where ``beft ui`` serves the pages
_LOCAL_MLFLOW = "http://127.0.0.1:5000/#"


def flow_run_page(flow_run: str) -> str:
    """The page of a flow run; that of ``beft ui`` where the run has a temporary server of its own."""
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

    pages = PREFECT_UI_URL.value() if PREFECT_API_URL.value() else None
    return f"{str(pages or LOCAL_PREFECT).rstrip('/')}/runs/flow-run/{flow_run}"


def mlflow_page(page: str, settings: PipelineSettings, root: Path) -> str:
    """A page of MLflow, given below the address of its server; that of ``beft ui`` where there is none."""
    return f"{pages_of(tracking_uri(settings, root)) or _LOCAL_MLFLOW}/{page}"


@translate_errors
@retry_broken_response
def link_runs(flow_run: str | None, mlflow_run: str, page: str, settings: PipelineSettings, root: Path) -> None:
    """Leave a link to the MLflow run on the flow run's page, and the flow run's id and page as tags in MLflow.

    Args:
        flow_run: Its id; None: nothing is linked.
        page: The MLflow run's page, below the address of its server.
    """
    if flow_run is None:
        return
    from prefect.artifacts import create_link_artifact

    write_batch(connect(settings, root), mlflow_run, tags={FLOW_RUN: flow_run, FLOW_RUN_PAGE: flow_run_page(flow_run)})
    create_link_artifact(
        mlflow_page(page, settings, root),
        link_text="the run in MLflow",
        key="mlflow-run",
        description="Parameters, metrics by epoch, all methods side by side",
    )
