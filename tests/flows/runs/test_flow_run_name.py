"""The names of flow runs: what a list of them shows."""

import pytest

from flows.runs.flow_run_name import flow_run_name
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.settings import PipelineSettings

SETTINGS = PipelineSettings.from_mapping({"base": {"source": "./base"}, "datasets": {"mine": {}, "yours": {}}})


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"settings": SETTINGS}, "./base · mine + yours"),
        ({"request": {"name": "table1", "datasets": ["stsb"]}}, "table1 · ./base · stsb"),
        ({"request": {"name": "table1", "models": ["./one", "./two"]}}, "table1 · ./one, ./two"),
        ({"request": {"name": "table1", "changes": {"base.source": "./other"}}}, "table1 · ./other"),
    ],
)
def test_it_names_the_base_that_is_computed_with(
    parameters: dict[str, object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "request" in parameters:
        parameters = {"request": ReproductionRequest.model_validate(parameters["request"])}
    monkeypatch.setattr("prefect.runtime.flow_run.parameters", {"settings": SETTINGS, **parameters}, raising=False)
    assert flow_run_name() == name
