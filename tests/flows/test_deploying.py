"""What is deployed: every flow, on pools that exist, with the settings as its form; again without harm."""

import asyncio
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.errors import BeftError, InputError, SettingsError
from flows.deploying import CRASHED, LIMIT, POOLS, deploy, deployed_settings
from flows.prefect_server import server_address
from tasks.places import places_here
from tasks.reproductions import ReproductionRequest
from tasks.settings import PipelineSettings
from tests.flows.test_adapt import root as root
from tests.flows.test_ui import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOYED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_flow_is_deployed() -> None:
    flows = {path.stem for path in (ROOT / "flows").glob("*.py") if "\n@flow(" in path.read_text()}
    assert {flow_of(deployment).name for deployment in DEPLOYED} == flows


@pytest.mark.parametrize("deployment", DEPLOYED, ids=lambda deployment: deployment["name"])
def test_a_deployment(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] in POOLS
    assert ("gpu" in deployment["tags"]) == (deployment["work_pool"]["name"] == "gpu")
    assert int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) >= 30
    parameters = flow_of(deployment).parameters
    assert set(parameters.required) <= set(deployment["parameters"]) <= set(parameters.properties)
    if "request" in deployment["parameters"]:
        ReproductionRequest.from_mapping(deployment["parameters"]["request"])


def test_promotion_follows_a_deployment_that_exists() -> None:
    [trigger] = [trigger for deployment in DEPLOYED for trigger in deployment.get("triggers", ())]
    named = {match["prefect.resource.role"]: match["prefect.resource.name"] for match in trigger["match_related"]}
    [before] = [deployment for deployment in DEPLOYED if deployment["name"] == named["deployment"]]
    assert flow_of(before).name == named["flow"]


def test_the_settings_come_from_params_yaml(root: Path) -> None:
    found = deployed_settings()
    assert PipelineSettings.from_mapping(found["settings"]) == PipelineSettings.read(root / "params.yaml")
    assert found["folder"] == str(root)


class TestBeforeAnythingIsDeployed:
    def test_no_server(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from prefect.settings import PREFECT_API_URL, temporary_settings

        shutil.copy(ROOT / "prefect.yaml", root)
        address = f"http://127.0.0.1:{free_port()}/api"
        with (
            temporary_settings({PREFECT_API_URL: address}),
            pytest.raises(BeftError, match=f"no Prefect server answers at {address}.*beft ui"),
        ):
            deploy(root)

    def test_no_prefect_yaml(self, root: Path) -> None:
        with pytest.raises(InputError, match=r"no prefect\.yaml"):
            deploy(root)

    def test_wrong_settings(self, root: Path) -> None:
        shutil.copy(ROOT / "prefect.yaml", root)
        (root / "params.yaml").write_text("datasets: {mien: {}}\n")
        with pytest.raises(SettingsError, match="mien"):
            deploy(root)


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_twice_is_as_once(root: Path) -> None:
    from prefect.client.orchestration import get_client

    async def found() -> dict[str, Any]:
        async with get_client() as client:
            deployments = await client.read_deployments()
            return {
                "pools": {pool.name: pool.type for pool in await client.read_work_pools()},
                "limits": {one.name: one.limit for one in await client.read_global_concurrency_limits()},
                "automations": sorted(automation.name for automation in await client.read_automations()),
                "deployments": {one.name: (one.id, one.parameters, len(one.schedules)) for one in deployments},
                "forms": [one.parameter_openapi_schema["definitions"]["TargetSettings"] for one in deployments],
            }

    shutil.copy(ROOT / "prefect.yaml", root)
    names = ["adapt/nightly", "promote/after-adapt", "reproduce/weekly"]
    assert deploy(root) == names
    once = asyncio.run(found())
    assert once["pools"] == {"cpu": "process", "gpu": "process"}
    assert once["limits"] == {LIMIT: len(places_here(PipelineSettings.read(root / "params.yaml").base))}
    assert once["automations"] == [CRASHED, "beft: promote after every adapt"]
    settings = PipelineSettings.read(root / "params.yaml")
    for _, parameters, _ in once["deployments"].values():
        assert PipelineSettings.from_mapping(parameters["settings"]) == settings
    assert {name: schedules for name, (_, _, schedules) in once["deployments"].items()} == {
        "nightly": 1,
        "after-adapt": 0,
        "weekly": 1,
    }
    assert all(form["properties"]["learning_rate"]["description"] == "of the biases" for form in once["forms"])

    assert deploy(root) == names
    assert asyncio.run(found()) == once
    assert server_address().startswith("http://127.0.0.1:")
