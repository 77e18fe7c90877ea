"""What the tests of flows share."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def automations_go_with_their_module() -> Iterator[None]:
    """All modules share one server, whose SQLite takes one writer: automations write at every event of every run."""
    yield
    if "prefect" not in sys.modules:
        return
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            for automation in client.read_automations():
                client.delete_automation(automation.id)
