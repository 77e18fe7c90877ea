"""What the tests of flows share."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.deployments import release_slots, remove_deployments


@pytest.fixture(autouse=True, scope="module")
def the_server_is_as_it_was() -> Iterator[None]:
    """All modules share one server: the next one finds no deployment of another folder, and no slot taken."""
    yield
    if "prefect" not in sys.modules:
        return
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        remove_deployments()
        release_slots()
