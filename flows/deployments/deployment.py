"""What ``prefect.yaml`` says, brought onto a Prefect server: pools, deployments, automations; again without harm."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from beft.commands import own_command
from beft.errors import BeftError, InputError
from beft.files import sha256_json
from beft.yaml_text import parse_yaml
from flows.deployments.automations import save_automations
from flows.servers.prefect_server import server_address
from tasks.engine.commands import run_command
from tasks.engine.compute_slots import slots_here
from tasks.environment import configure_environment
from tasks.project_files import PROJECT
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings

POOLS = {
    "cpu": "Light flows: promotion. A worker starts each as a process beside itself.",
    "gpu": "Flows that train. On a machine without a GPU they train on the CPU, and say so.",
}
"""The work pools and what they are for."""

LIMIT = "tag:gpu"
"""Prefect's limit on tasks with the tag gpu, on all machines together: the setting ``deployment.gpu_tasks``.

A task that dies gives its place back within a minute. On each machine a place is a lock besides
(``tasks.engine.compute_slots``).
"""


_WORKING_DIRECTORY = "prefect.deployments.steps.set_working_directory"


def deploy(root: Path) -> list[str]:
    """Make the pools, the limit, deployments with their triggers, and the automations for dead and failed runs.

    What is there already is brought up to date; pools stay as they are, and so does the switch of a schedule that is
    otherwise as it was.

    Args:
        root: The folder with ``prefect.yaml`` and ``params.yaml``, in which the flows will run.

    Returns:
        The names of the deployments of ``prefect.yaml``, as ``FLOW/DEPLOYMENT``, the limit, and where the server
        differs from the file: switches that stayed, and deployments of this folder that the file does not have.

    Raises:
        InputError: There is no ``prefect.yaml``, or ``params.yaml`` is wrong.
        BeftError: No server answers, Prefect refuses, or the server has such deployments of another folder.
    """
    configure_environment(root)
    if not (root / "prefect.yaml").is_file():
        raise InputError(
            f"no prefect.yaml in {root}; run this in the project's folder ({own_command('beft', 'init')} starts one)"
        )
    settings = PipelineSettings.read(root / "params.yaml")
    check_settings(settings, root)
    gpu_tasks = settings.deployment.gpu_tasks or len(slots_here(settings.base))
    address = server_address()

    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: address}):
        before = asyncio.run(_own_deployments(root, address))
        asyncio.run(_make_pools(gpu_tasks))
        try:
            _deploy_all(root, address)
        finally:  # where one was refused, others may have been replaced
            kept = asyncio.run(_keep_switches(before))
        deployments = asyncio.run(_our_deployments(root))
        asyncio.run(save_automations(deployments, settings.deployment.webhook))
        removed = asyncio.run(_not_in_the_file(set(deployments.values()), address))
    limit = f"{LIMIT}: {gpu_tasks} at once on all machines (deployment.gpu_tasks in params.yaml)"
    return [*deployments, limit, *kept, *removed]


def deployed_settings() -> dict[str, Any]:
    """A build step of ``prefect.yaml``: the settings in ``params.yaml`` as parameters, and the current folder."""
    settings = PipelineSettings.read(Path("params.yaml"))
    return {"settings": settings.model_dump(mode="json"), "folder": str(Path.cwd())}


async def _own_deployments(root: Path, address: str) -> list[Any]:
    """The deployments of ``prefect.yaml`` that the server has already. None of another folder is to be replaced.

    Prefect tells deployments apart by flow and name alone.

    Raises:
        InputError: ``prefect.yaml`` is no YAML.
        BeftError: One would be replaced.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    declared, found, others = _declared(root), [], {}
    async with get_client() as client:
        for one in declared.get("deployments") or ():
            if not {"entrypoint", "name"} <= set(one):
                continue  # Prefect says what is missing
            name = f"{re.split('[.:]', one['entrypoint'])[-1]}/{one['name']}"
            own = _folder(one.get("pull", declared.get("pull")))
            try:
                found.append(await client.read_deployment_by_name(name))
            except ObjectNotFound:
                continue
            there = _folder(found[-1].pull_steps)
            if own is not None and there != (str(root.resolve()) if "{{" in own else own):
                others[name] = there or "another program"
    if others:
        at = f"PREFECT_API_URL={address}"
        lines = [
            f"the Prefect server at {address} has deployments of the same names that are not of {root.resolve()}:",
            *(f"  - {name}, of {folder}" for name, folder in others.items()),
            "name a server of this folder's own in PREFECT_API_URL; or, where the others are not needed any more (this "
            "project was moved here, perhaps), delete them and deploy again:",
            *(f"  env {at} {own_command('prefect', 'deployment', 'delete', name)}" for name in others),
        ]
        raise BeftError("\n".join(lines))
    return found


def _folder(steps: Sequence[Mapping[str, Any]] | None) -> str | None:
    """The folder in which a flow runs, by the pull steps of its deployment; None where they name none."""
    found = [step[_WORKING_DIRECTORY] for step in steps or () if _WORKING_DIRECTORY in step]
    return str(found[-1]["directory"]) if found else None


def _declared(root: Path) -> dict[str, Any]:
    try:
        return dict(parse_yaml((root / "prefect.yaml").read_text(encoding="utf-8")) or {})
    except ValueError as error:
        raise InputError(f"{root / 'prefect.yaml'}: {error}") from None


async def _make_pools(gpu_tasks: int) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        for name, description in POOLS.items():
            pool = WorkPoolCreate(name=name, type="process", description=description, base_job_template=template)
            try:
                await client.create_work_pool(pool)
            except ObjectAlreadyExists:
                continue
        await client.upsert_global_concurrency_limit_by_name(LIMIT, gpu_tasks)


def _deploy_all(root: Path, address: str) -> None:
    shown = {"PREFECT_API_URL": address, "NO_COLOR": "1", "COLUMNS": "200"}
    command = ["-m", "prefect", "--no-prompt", "deploy", "--all"]
    ended = run_command(command, root, source=PROJECT, inherited=os.environ, **shown)
    if ended.status != 0:
        said = "\n".join(ended.lines)
        raise BeftError(f"prefect deploy --all ended with status {ended.status}:\n{said}")


async def _keep_switches(before: Sequence[Any]) -> list[str]:
    """Switch schedules on or off as they were before they were deployed again; a new or changed one is as in the file.

    Args:
        before: The deployments as they were.

    Returns:
        A line for each that is otherwise than in the file.
    """
    from prefect.client.orchestration import get_client

    kept = []
    async with get_client() as client:
        for old in before:
            switches = {_rule(schedule): schedule.active for schedule in old.schedules}
            for schedule in (await client.read_deployment(old.id)).schedules:
                active = switches.get(_rule(schedule), schedule.active)
                if active == schedule.active:
                    continue
                await client.update_deployment_schedule(old.id, schedule.id, active=active)
                name = f"{(await client.read_flow(old.flow_id)).name}/{old.name}"
                on = "on" if active else "off"
                kept.append(f"{name}: its schedule stays {on}, as it was on the server; Prefect's page switches it")
    return kept


def _rule(schedule: Any) -> str:
    """All of a schedule but its switch, and its anchor: where the file names none, that is the time of the deploy."""
    facts = schedule.model_dump(mode="json", include={"schedule", "parameters", "slug"})
    facts["schedule"].pop("anchor_date", None)
    return sha256_json(facts)


async def _not_in_the_file(deployments: Set[str], address: str) -> list[str]:
    """A line for each further deployment in the folder of these, whose schedule goes on: how it is deleted.

    Args:
        deployments: The ids of those in ``prefect.yaml``.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        there = await _every(client.read_deployments)
        folders = {_folder(one.pull_steps) for one in there if str(one.id) in deployments} - {None}
        further = [one for one in there if str(one.id) not in deployments and _folder(one.pull_steps) in folders]
        names = [f"{(await client.read_flow(one.flow_id)).name}/{one.name}" for one in further]
    at = f"PREFECT_API_URL={address}"
    return [
        f"{name} is not in prefect.yaml, but still on the server; where it is not needed any more, delete it:\n"
        f"  env {at} {own_command('prefect', 'deployment', 'delete', name)}"
        for name in sorted(names)
    ]


async def _our_deployments(root: Path) -> dict[str, str]:
    """``FLOW/DEPLOYMENT`` to id of the deployments of ``prefect.yaml``; the server has those of other projects, too."""
    from prefect.client.orchestration import get_client

    ours = {(one["name"], one["entrypoint"]) for one in _declared(root)["deployments"]}
    async with get_client() as client:
        flows = {flow.id: flow.name for flow in await _every(client.read_flows)}
        deployments = [one for one in await _every(client.read_deployments) if (one.name, one.entrypoint) in ours]
    return dict(sorted((f"{flows[one.flow_id]}/{one.name}", str(one.id)) for one in deployments))


async def _every(read: Callable[..., Awaitable[list[Any]]]) -> list[Any]:
    """All that the server has: it gives 200 at a time."""
    found: list[Any] = []
    while page := await read(limit=200, offset=len(found)):
        found += page
    return found
