"""What the tests of flows share."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.deployments import remove_deployments


@pytest.fixture(autouse=True, scope="module")
def deployments_go_with_their_module() -> Iterator[None]:
    """All modules share one server, and no folder replaces the deployments of another one."""
    yield
    if "prefect" not in sys.modules:
        return
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        remove_deployments()
