"""What `beft mlflow-server` asks for before it starts; that it then works is held by tests/tasks/test_*_server.py."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from beft.errors import BeftError, InputError
from flows.cli import status_of
from flows.servers.mlflow_server import network_location, personal_server, team_server
from tests.support.servers.postgresql import free_port

SECRET = "never:shown@all"
NAMED = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://beft:never%3Ashown%40all@127.0.0.1:{port}/mlflow",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
}


def team(root: Path, environment: Mapping[str, str], host: str = "127.0.0.1") -> None:
    team_server(root, host, 5000, None, environment)


def test_one_person_gets_the_database_of_the_project(tmp_path: Path) -> None:
    given = {"HOME": "/root", "MLFLOW_TRACKING_URI": "http://elsewhere", "MLFLOW_BACKEND_STORE_URI": "sqlite:///other"}
    server = personal_server(tmp_path, "127.0.0.1", 5000, given)
    assert f"sqlite:///{tmp_path}/mlflow/mlflow.db" in server.arguments
    assert server.environment == {"HOME": "/root"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "mlflow.example"])
def test_without_accounts_only_this_machine(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="make mlflow-team"):
        personal_server(tmp_path, host, 5000, {})


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        team(tmp_path, {}, host="0.0.0.0")
    said = str(refused.value)
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_SERVER_ALLOWED_HOSTS"):
        assert f"- {name}: " in said or f"- {name} (" in said


def test_a_team_needs_postgresql(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the database of a team is PostgreSQL") as refused:
        team(tmp_path, {**NAMED, "MLFLOW_BACKEND_STORE_URI": f"mysql://beft:{SECRET}@127.0.0.1/mlflow"})
    assert SECRET not in str(refused.value)


def test_a_password_in_the_query_is_refused(tmp_path: Path) -> None:
    address = "postgresql://beft@127.0.0.1/mlflow?password=hidden-here"
    with pytest.raises(InputError, match="PGPASSWORD") as refused:
        team(tmp_path, {**NAMED, "MLFLOW_BACKEND_STORE_URI": address})
    assert "hidden-here" not in str(refused.value)


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    port = free_port()
    given = {name: value.format(port=port) for name, value in NAMED.items()}
    with pytest.raises(BeftError, match=f"MLFLOW_BACKEND_STORE_URI refuses: .*{port}") as refused:
        team(tmp_path, given)
    assert "shown" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_host_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["mlflow-server", "--host", "no.such.host.invalid", "--port", str(free_port())]) == 2
    assert "--host no.such.host.invalid" in capsys.readouterr().err


def test_an_ipv6_address_has_brackets_in_a_url() -> None:
    assert network_location("::1", 5000) == "[::1]:5000"
    assert network_location("127.0.0.1", 80) == "127.0.0.1:80"
