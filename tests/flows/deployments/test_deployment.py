"""What is deployed: every flow, on pools that exist, with the settings as its form; again without harm."""

import asyncio
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.errors import BeftError, InputError, SettingsError
from beft.files import write_text
from flows.deployments.automations import CRASHED
from flows.deployments.deployment import LIMIT, POOLS, deploy, deployed_settings
from flows.servers.prefect_server import server_address
from tasks.engine.compute_slots import slots_here
from tasks.reproduction.catalogue import ReproductionRequest
from tasks.settings import PipelineSettings
from tests.faults.cases_prefect import PrefectServer
from tests.flows.servers.test_ui import free_port
from tests.flows.test_adapt import root as root
from tests.support.deployments import remove_deployments
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
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
    names = ["adapt/nightly", "monitor/hourly", "promote/after-adapt", "reproduce/weekly"]
    *deployed, limit = deploy(root)
    assert deployed == names
    once = asyncio.run(found())
    assert limit.startswith(f"{LIMIT}: {once['limits'][LIMIT]} at once")
    assert once["pools"] == {"cpu": "process", "gpu": "process"}
    assert once["limits"] == {LIMIT: len(slots_here(PipelineSettings.read(root / "params.yaml").base))}
    assert once["automations"] == [CRASHED, "beft: promote after every adapt"]
    settings = PipelineSettings.read(root / "params.yaml")
    for _, parameters, _ in once["deployments"].values():
        assert PipelineSettings.from_mapping(parameters["settings"]) == settings
    assert {name: schedules for name, (_, _, schedules) in once["deployments"].items()} == {
        "nightly": 1,
        "hourly": 1,
        "after-adapt": 0,
        "weekly": 1,
    }
    forms = [form["properties"]["learning_rate"]["description"] for form in once["forms"]]
    assert all(form.startswith("of the biases; None: ") for form in forms)

    assert deploy(root) == [*names, limit]
    assert asyncio.run(found()) == once
    assert server_address().startswith("http://127.0.0.1:")


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_deployments_of_another_folder_are_not_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the server changes until somebody deletes them, as the message says how."""
    from prefect.client.orchestration import get_client

    def deployed() -> dict[str, Any]:
        with get_client(sync_client=True) as client:
            return {one.name: (one.id, one.updated, one.pull_steps) for one in client.read_deployments()}

    remove_deployments()
    shutil.copy(ROOT / "prefect.yaml", root)
    *names, _ = deploy(root)
    before, other = deployed(), root / "another project"
    shutil.copytree(root, other, ignore=shutil.ignore_patterns(other.name))
    monkeypatch.chdir(other)
    with pytest.raises(BeftError) as refused:
        deploy(other)
    assert deployed() == before
    lines = str(refused.value).splitlines()
    assert {line for line in lines if line.startswith("  - ")} == {f"  - {name}, of {root}" for name in names}
    commands = [shlex.split(line) for line in lines if line.startswith("  env ")]
    assert sorted(command[-1] for command in commands) == names
    subprocess.run(commands[0], check=True, env=os.environ | {"PREFECT_API_URL": ""}, timeout=120)
    assert set(before) - set(deployed()) == {commands[0][-1].partition("/")[2]}
    remove_deployments()

    # A folder that prefect.yaml names itself, as a container has it; and deployments that no project made.
    text = (other / "prefect.yaml").read_text()
    write_text(other / "prefect.yaml", text.replace('"{{ project.folder }}"', "/as/the/container/has/it"))
    for _ in range(2):
        assert deploy(other)[:-1] == names
    monkeypatch.chdir(root)
    with pytest.raises(BeftError, match="nightly, of /as/the/container/has/it"):
        deploy(root)
    remove_deployments()
    with get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow_from_name("promote"), "after-adapt")
    with pytest.raises(BeftError, match="promote/after-adapt, of another program"):
        deploy(root)
    write_text(root / "prefect.yaml", "deployments: [")
    with pytest.raises(InputError, match=r"(?s)prefect\.yaml: .*line 1"):
        deploy(root)


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_what_was_switched_on_the_page_stays(root: Path) -> None:
    """A schedule that the file changed is as in the file, and a deployment that the file lost is named."""
    from prefect.client.orchestration import get_client

    def switches() -> dict[str, bool]:
        with get_client(sync_client=True) as client:
            found = client.read_deployments()
        return {one.name: schedule.active for one in found for schedule in one.schedules}

    def switch(**wanted: bool) -> None:
        with get_client(sync_client=True) as client:
            for name, active in wanted.items():
                [one] = [one for one in client.read_deployments() if one.name == name]
                client.update_deployment_schedule(one.id, one.schedules[0].id, active=active)

    remove_deployments()
    text = (ROOT / "prefect.yaml").read_text().replace('cron: "0 5 * * 0"', "interval: 604800")  # its anchor is now
    write_text(root / "prefect.yaml", text)
    *names, _ = deploy(root)
    assert switches() == {"nightly": True, "hourly": False, "weekly": True}
    switched = {"nightly": False, "hourly": True, "weekly": False}
    switch(**switched)
    said = deploy(root)[len(names) + 1 :]
    assert switches() == switched
    assert [line.partition(", as it was")[0] for line in said] == [
        "adapt/nightly: its schedule stays off",
        "monitor/hourly: its schedule stays on",
        "reproduce/weekly: its schedule stays off",
    ]

    changed = yaml.safe_load(text.replace('cron: "0 2 * * *"', 'cron: "0 3 * * *"'))
    changed["deployments"] = [one for one in changed["deployments"] if one["name"] != "weekly"]
    write_text(root / "prefect.yaml", yaml.safe_dump(changed))
    lines = "\n".join(deploy(root)).splitlines()
    assert switches() == {"nightly": True, "hourly": True, "weekly": False}
    assert lines[-2].startswith("reproduce/weekly is not in prefect.yaml")
    subprocess.run(shlex.split(lines[-1]), check=True, env=os.environ | {"PREFECT_API_URL": ""}, timeout=120)
    assert set(switches()) == {"nightly", "hourly"}

    # Prefect replaces some deployments and refuses the last.
    switch(nightly=False)
    changed["deployments"].append({**changed["deployments"][0], "name": "refused", "schedules": [{"cron": "never"}]})
    write_text(root / "prefect.yaml", yaml.safe_dump(changed))
    with pytest.raises(BeftError, match="prefect deploy --all ended with status 1"):
        deploy(root)
    assert switches() == {"nightly": False, "hourly": True}


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that takes JSON objects, and those that it got."""
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", told
        server.shutdown()
        thread.join()


@pytest.mark.server
def test_runs_and_deployments_of_other_teams_are_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webhook: tuple[str, list[Any]]
) -> None:
    """A run of ours and one of another team lose their processes: the automation marks ours alone as crashed.

    And of the flow runs that end well, only one of ours starts a promotion. The webhook hears of our crashed run alone.
    """
    hook, told = webhook
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Completed, Running

    monkeypatch.setattr(
        "flows.deployments.automations._SILENCE", timedelta(seconds=10)
    )  # the shortest that Prefect takes
    shutil.copy(ROOT / "prefect.yaml", root)
    write_text(
        root / "params.yaml", (root / "params.yaml").read_text() + f"deployment: {{gpu_tasks: 7, webhook: {hook}}}\n"
    )
    (tmp_path / "server").mkdir()
    home = {"PREFECT_HOME": str(tmp_path / "server"), "PREFECT_API_URL": ""}
    server = PrefectServer(tmp_path / "server", environment=home)
    api = f"{server.address}/api"
    try:
        server.start()
        server.wait()
        with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
            theirs = client.create_deployment(client.create_flow_from_name("etl"), "nightly", tags=["gpu"])
            client.upsert_global_concurrency_limit_by_name(LIMIT, 1)  # as the first who deployed had made it
            ours = ["adapt/nightly", "monitor/hourly", "promote/after-adapt", "reproduce/weekly", SEVEN]
            assert deploy(root) == ours
            assert client.read_global_concurrency_limit_by_name(LIMIT).limit == 7
            nightly = client.read_deployment_by_name("adapt/nightly")
            ours = nightly.id
            assert "deployment" in nightly.parameters["settings"] and hook not in str(nightly.parameters)
            runs = {
                name: client.create_flow_run_from_deployment(of).id for name, of in (("etl", theirs), ("adapt", ours))
            }

            ended = [client.create_flow_run_from_deployment(theirs).id, client.create_flow_run_from_deployment(ours).id]
            for run in ended:
                for state in (Running(), Completed()):
                    client.set_flow_run_state(run, state, force=True)
            for name, run in runs.items():
                die_after_a_heartbeat(name, str(run), api)
            wait_until(lambda: client.read_flow_run(runs["adapt"]).state.type == StateType.CRASHED, 180)
            wait_until(lambda: bool(told), 60)
            time.sleep(10)
            [call] = told
            assert call["text"].startswith(f"adapt {client.read_flow_run(runs['adapt']).name}: ")
            assert "Its process or machine died" in call["text"]
            assert client.read_flow_run(runs["etl"]).state.type == StateType.RUNNING
            after = client.read_deployment_by_name("promote/after-adapt").id
            promotions = [run for run in client.read_flow_runs() if run.deployment_id == after]
            assert len(promotions) == 1
    finally:
        server.kill()


SEVEN = f"{LIMIT}: 7 at once on all machines (deployment.gpu_tasks in params.yaml)"
SILENT = """
import sys, time
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

name, run = sys.argv[1:]

@flow(name=name)
def silent(settings: object = None):
    print("started", flush=True)
    time.sleep(3600)

with get_client(sync_client=True) as client:
    run_flow(silent, flow_run=client.read_flow_run(run), parameters={})
"""


def die_after_a_heartbeat(flow: str, run: str, api: str) -> None:
    """Run a flow for a flow run in a process, which is killed when the server has its first heartbeat."""
    beats = {"PREFECT_API_URL": api, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    with subprocess.Popen([sys.executable, "-c", SILENT, flow, run], env=os.environ | beats) as process:
        try:
            wait_until(lambda: has_heartbeat(run, api), 180)
        finally:
            process.kill()


def has_heartbeat(run: str, api: str) -> bool:
    wanted = {
        "filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    }
    request = urllib.request.Request(
        f"{api}/events/filter", json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bool(json.load(answer)["events"])
