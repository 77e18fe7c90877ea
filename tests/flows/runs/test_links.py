"""Where the pages of a run are."""

from pathlib import Path

import pytest

from flows.runs.links import flow_run_page, mlflow_page
from tasks.settings import PipelineSettings


def test_the_page_of_a_flow_run_is_that_of_the_server_which_has_it() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        assert flow_run_page("abc") == "http://prefect.example:4200/runs/flow-run/abc"
    with temporary_settings({PREFECT_API_URL: None}):  # a temporary server; later the pages of beft ui
        assert flow_run_page("abc") == "http://127.0.0.1:4200/runs/flow-run/abc"


def test_the_page_in_mlflow_is_that_of_the_tracking_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = "experiments/1/runs/abc"
    assert mlflow_page(page, PipelineSettings(), tmp_path) == f"http://127.0.0.1:5000/#/{page}"
    settings = PipelineSettings.from_mapping({"tracking": {"uri": "https://mlflow.example/"}})
    assert mlflow_page(page, settings, tmp_path) == f"https://mlflow.example/#/{page}"
