"""Automations on the Prefect server: runs that fell silent are marked as crashed, failed ones are reported."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

CRASHED = "beft: mark silent runs as crashed"
"""The automation that notices a flow run whose process or machine died."""

REPORTED = "beft: report failed runs"
"""The automation that calls the webhook of the setting ``deployment.webhook``."""

_BLOCK = "beft-failed-runs"
_SILENCE = timedelta(seconds=120)  # four heartbeats
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_MESSAGE = (
    '{"text": {{ (flow.name ~ " " ~ flow_run.name ~ ": " ~ flow_run.state.name ~ ". " '
    '~ (flow_run.state.message or "") ~ " " ~ (flow_run|ui_url)) | tojson }}}'
)


async def save_automations(deployments: Mapping[str, str], webhook: str | None) -> None:
    """Make or update the automations for these deployments.

    Args:
        deployments: ``FLOW/DEPLOYMENT`` to id.
        webhook: The address that is called for a failed run of a deployment named ``nightly``; None: none is.
    """
    await _save(CRASHED, _crash_automation(deployments.values()))
    nightly = [id for name, id in deployments.items() if name.endswith("/nightly")]
    await _save(REPORTED, await _report_automation(nightly, webhook) if webhook else None)


async def _save(name: str, wanted: Any | None) -> None:
    """Have one automation of this name on the server, or none."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        found = await client.read_automations_by_name(name)
        if wanted is not None and found:
            await client.update_automation(found[0].id, wanted)
        elif wanted is not None:
            await client.create_automation(wanted)
        for other in found[1:] if wanted is not None else found:  # two deployed at once
            await client.delete_automation(other.id)


def _of(deployments: Iterable[str]) -> Any:
    from prefect.events.schemas.events import ResourceSpecification

    ids = [f"prefect.deployment.{one}" for one in deployments]
    return ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids})


async def _report_automation(deployments: Iterable[str], webhook: str) -> Any:
    """A run of these deployments failed or crashed: the address gets a JSON object with a ``text``."""
    from prefect.automations import AutomationCore
    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    headers = {"Content-Type": "application/json"}
    block = await Webhook(method="POST", url=webhook, headers=headers).asave(_BLOCK, overwrite=True)
    return AutomationCore(
        name=REPORTED,
        description="Calls the address of deployment.webhook when a nightly run failed or crashed.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_of(deployments),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block, payload=_MESSAGE)],
    )


def _crash_automation(deployments: Iterable[str]) -> Any:
    """A run of ours that sent heartbeats and stopped without an end is dead, and can be started again.

    Args:
        deployments: Their ids. Runs of other teams' deployments are theirs to watch.
    """
    from prefect.automations import AutomationCore
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    return AutomationCore(
        name=CRASHED,
        description="A flow run that has sent no heartbeat for two minutes has lost its process or its machine.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_of(deployments),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="Its process or machine died: no heartbeat for two minutes. Start it again, and it goes on.",
            )
        ],
    )
