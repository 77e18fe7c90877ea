"""What is deployed on the Prefect server that is in use, and the slots of its limit on tasks."""


def remove_deployments() -> None:
    """Delete every deployment, and every automation: they write at each event of each run into the server's SQLite."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


def release_slots() -> None:
    """Release the slots of tasks that were killed: Prefect's server for tests runs no service that does it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    from flows.deployments.deployment import LIMIT

    with get_client(sync_client=True) as client:
        if LIMIT in [one.name for one in client.read_global_concurrency_limits()]:
            client.update_global_concurrency_limit(LIMIT, GlobalConcurrencyLimitUpdate(active_slots=0))
