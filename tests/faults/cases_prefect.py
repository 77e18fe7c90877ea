"""Prefect's server is away: the run says so in a line, and goes on when it is started again."""

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Seen
from tests.faults.workspace import STEPS, Faulty, small_faulty
from tests.support.servers.server import Server


class PrefectServer(Server):
    """Prefect's server of a folder."""

    def command(self) -> list[str]:
        return ["-m", "prefect", "server", "start"]

    def health(self) -> str:
        return "/api/health"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that was not started yet."""
    folder = tmp_path_factory.mktemp("server")
    server = PrefectServer(folder, environment={"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": ""})
    yield server
    server.kill()


@pytest.fixture(scope="module")
def served(server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    """A workspace whose runs are shown by the server."""
    return small_faulty(tmp_path_factory.mktemp("served"), PREFECT_API_URL=f"{server.address}/api")


def test_server_is_down_at_the_start(served: Faulty, server: PrefectServer, seen: Seen) -> None:
    assert served.run() == 1
    assert f"no Prefect server answers at {server.address}/api" in served.message()
    assert not served.finished()
    seen("message", served.message())
    seen("kept", "nothing was begun")


def test_server_goes_down_in_the_middle(served: Faulty, server: PrefectServer, undisturbed: Faulty, seen: Seen) -> None:
    server.start()
    server.wait()
    with served.running(stop="train/mine"):
        server.kill()
        served.let_go(within=480)  # Prefect's client tries again for a minute, at each of the few things it has to say
    assert f"no Prefect server answers at {server.address}/api" in served.message()
    assert served.finished() == set(STEPS[:3])
    seen("message", served.message())
    seen("kept", "the training that had just ended")
    server.start()
    server.wait()
    served.goes_on_as(undisturbed)
    seen("then", "one MLflow run, one version, the same adapter bytes")


def test_server_is_restarted_in_the_middle(
    server: PrefectServer, faulty: Faulty, undisturbed: Faulty, seen: Seen
) -> None:
    faulty.environment["PREFECT_API_URL"] = f"{server.address}/api"
    with faulty.running(stop="train/mine") as run:
        server.kill()
        server.start()
        server.wait()
        faulty.let_go()
    assert run.returncode == 0, faulty.said[-1]
    assert faulty.adapter() == undisturbed.adapter()
    assert faulty.registry() == undisturbed.registry()
    seen("message", "none")
    seen("kept", "every step")
    seen("then", "by itself, in the same run")
