"""What is deployed on the Prefect server that is in use."""


def remove_deployments() -> None:
    """Delete every deployment, and every automation: they write at each event of each run into the server's SQLite."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
