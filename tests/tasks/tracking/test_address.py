"""Addresses of MLflow that are no file of this machine: databases, Databricks, servers with certificates."""

import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from beft.errors import BeftError, InputError
from tasks.settings import PipelineSettings
from tasks.tracking.address import pages_of, silence
from tasks.tracking.connection import _refused, as_default, connect, tracking_uri
from tests.support.servers.mlflow_server import mlflow_server
from tests.support.servers.postgresql import PASSWORD, USER, free_port, postgresql

pytestmark = pytest.mark.usefixtures("_no_tracking_address")


def at(address: str) -> PipelineSettings:
    """Settings that name an address of MLflow."""
    return PipelineSettings.from_mapping({"tracking": {"uri": address}})


@pytest.mark.server
def test_postgresql_without_a_driver_in_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver that is installed is used, and files go where all machines see them."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(tmp_path / "shared"))
    with postgresql() as port:
        connection = connect(at(f"postgresql://{USER}@127.0.0.1:{port}/{USER}"), tmp_path / "project")
        location = connection.client.get_experiment(connection.experiment).artifact_location
        assert location == (tmp_path / "shared").as_uri()
        run = connection.client.create_run(connection.experiment).info.run_id
        connection.client.log_text(run, "kept", "note.txt")
        assert (tmp_path / "shared" / run / "artifacts" / "note.txt").read_text() == "kept"
    assert not (tmp_path / "project").exists()


def test_a_database_that_is_not_there_is_one_line_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    address = f"postgresql://somebody@127.0.0.1:{free_port()}/mlflow"
    with pytest.raises(BeftError, match=r"no MLflow database answers at postgresql.*refused"):
        connect(at(address), tmp_path)
    assert time.monotonic() - began < 30
    assert not (tmp_path / "mlflow").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://somebody@127.0.0.1/mlflow", "needs the database driver 'MySQLdb', which is not installed"),
        ("postgresql+asyncpg://127.0.0.1/mlflow", r"leave '\+asyncpg' out|needs the database driver 'asyncpg'"),
        ("postgresql://127.0.0.1:abc/mlflow", "its host or port cannot be read"),
        ("postgresql:127", "Could not parse"),
        ("sqlite://mlflow.db/", "Invalid SQLite URL"),
        ("https://[::1/", "Invalid IPv6 URL"),
        ("http://127.0.0.1:abc", "Port could not be cast"),
        ("http:///mlflow", "it names no server"),
    ],
)
def test_an_address_that_is_none_is_one_line(address: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as raised:
        connect(at(address), tmp_path)
    assert "\n" not in str(raised.value) and address in str(raised.value)


def test_a_kind_of_address_that_mlflow_does_not_know_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BeftError, match=r"MLflow at foo://mlflow refused: .*unsupported URI"):
        connect(at("foo://mlflow"), tmp_path)


@pytest.mark.server
def test_a_database_that_lets_nobody_in_is_said_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql() as port:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        with pytest.raises(BeftError, match=r'refuses: .*database "other" does not exist'):
            connect(at(f"postgresql://{USER}@127.0.0.1:{port}/other"), tmp_path)
        monkeypatch.setenv("PGPASSWORD", "another")
        with pytest.raises(BeftError, match=r"refuses: .*authentication failed"):
            connect(at(f"postgresql://{USER}@127.0.0.1:{port}/{USER}"), tmp_path)


@pytest.mark.server
def test_databricks_keeps_its_files_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of MLflow stands for a workspace of Databricks, whose requests are the same."""
    (tmp_path / "server").mkdir()
    with mlflow_server(tmp_path / "server") as server:
        monkeypatch.setenv("MLFLOW_ENABLE_DB_SDK", "false")
        monkeypatch.setenv("DATABRICKS_HOST", server.address)
        monkeypatch.setenv("DATABRICKS_TOKEN", "a token")
        connection = connect(at("databricks"), tmp_path / "project")
        location = connection.client.get_experiment(connection.experiment).artifact_location
        assert location.startswith("mlflow-artifacts:/")
        assert pages_of("databricks") == f"{server.address}/ml"
    assert not (tmp_path / "project" / "mlflow" / "artifacts").exists()


def test_databricks_without_a_login_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DATABRICKS_CONFIG_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BeftError, match="MLflow at databricks refused: "):
        connect(at("databricks"), tmp_path)
    assert not (tmp_path / "mlflow").exists()


@contextmanager
def healthy(folder: Path) -> Iterator[str]:
    """A server that speaks TLS, with a certificate that it signed itself; its address."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    # the handshake is made by the thread of the request, so that no client keeps the server from being shut down
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_is_asked_with_the_certificates_of_mlflows_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with healthy(tmp_path) as address:
        assert "CERTIFICATE_VERIFY_FAILED" in (silence(address) or "")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "certificate.pem"))
        assert silence(address) is None


def test_pages_are_where_the_server_is(tmp_path: Path) -> None:
    assert pages_of("https://mlflow.example/") == "https://mlflow.example/#"
    assert pages_of(tracking_uri(PipelineSettings(), tmp_path)) is None
    assert pages_of("postgresql://mlflow.example/mlflow") is None


def test_a_default_within_another_one_leaves_none(project: Path) -> None:
    connection = connect(PipelineSettings(), project)
    with as_default(connection):
        with as_default(connection):
            assert mlflow.get_tracking_uri() == connection.uri
        assert mlflow.get_tracking_uri() == connection.uri
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert mlflow.get_tracking_uri() != connection.uri


@pytest.mark.parametrize(
    ("variables", "said", "expected"),
    [
        ({}, "failed with error code 401 != 200", "asks who you are: set MLFLOW_TRACKING_USERNAME"),
        ({"MLFLOW_TRACKING_USERNAME": "ann"}, "failed with error code 401 != 200", "does not let 'ann' in"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "failed with error code 401 != 200", "the token in MLFLOW_TRACKING_TOKEN"),
        ({}, "Permission denied for experiment study-401 at host:4010", "refused: Permission denied for experiment"),
    ],
)
def test_who_is_not_let_in_is_told_by_the_status_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str, expected: str
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert expected in _refused("http://mlflow:5000", MlflowException(said))
