"""The parent run of a reproduction in MLflow."""

from pathlib import Path

import pytest

from tasks.reproduction.catalogue import ReproductionRequest
from tasks.reproduction.tracking import finish_reproduction, open_reproduction, tracked_in
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect


@pytest.mark.usefixtures("_no_tracking_address")
def test_a_reproduction_that_is_run_again_shows_its_last_numbers(tmp_path: Path) -> None:
    """The first time a measurement failed, and the mean over the others was higher."""
    settings, request = PipelineSettings(), ReproductionRequest(name="table1")
    for values in ({"a": 0.9, "b": 0.5}, {"a": 0.8, "b": 0.5}, {"a": 0.8, "b": 0.5}):
        parent = open_reproduction("f" * 64, request, None, settings, root=tmp_path, facts={})
        finish_reproduction(parent, "FINISHED", settings, root=tmp_path, metrics=values)
    client = connect(tracked_in(settings), tmp_path).client
    assert client.get_run(parent).data.metrics == {"a": 0.8, "b": 0.5}
    assert [len(client.get_metric_history(parent, name)) for name in ("a", "b")] == [2, 1]
