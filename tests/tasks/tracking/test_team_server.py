"""The MLflow server of a team, whole: PostgreSQL, accounts, artifacts through the server; restarted; used by two."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest

from beft.files import sha256_tree
from flows.cli import status_of
from tasks.registry.registered import fetch_model
from tasks.settings import PipelineSettings
from tasks.steps.register import DONE, register
from tasks.tracking.connection import connect
from tasks.tracking.entries import as_mlflow_text, entries
from tasks.tracking.runs import close_run, log_step, nested_run, open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.servers.mlflow_server import ROOT, MlflowServer, mlflow_server
from tests.support.servers.postgresql import PASSWORD, USER, postgresql

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("_no_tracking_address")]

ADMIN_PASSWORD = "the admin's own 5ecret"
MEMBERS = {"ann": "ann knows: 7 hills", "bob": "bob knows: 9 lives"}
SECRETS = [PASSWORD, quote(PASSWORD, safe=""), ADMIN_PASSWORD, *MEMBERS.values()]

REGISTER = """
import json, sys
from pathlib import Path
from tasks.steps.register import register
from tasks.settings import PipelineSettings
given = json.loads(sys.stdin.readline())
out = Path("out")
inputs = {name: Path(path) for name, path in given["inputs"].items()}
settings = PipelineSettings.from_mapping(given["settings"])
print("ready", flush=True)
sys.stdin.readline()
summary = register(settings, inputs, out, parent=given["parent"], root=Path(), facts=given["facts"])
print(json.dumps(summary))
"""


@dataclass(frozen=True)
class Team:
    """A running server, the port of its database, and the run that its members work on."""

    server: MlflowServer
    database: int
    run: FinishedRun

    @property
    def settings(self) -> PipelineSettings:
        """Those of the run, with the server's address."""
        return self.run.settings


@pytest.fixture(scope="module")
def team(finished_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The server as `make mlflow-team` starts it, and two members with accounts."""
    environment = {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789abcdef" * 4,
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_WORKERS": "1",
    }
    with postgresql() as port:
        address = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{USER}"
        environment["MLFLOW_BACKEND_STORE_URI"] = address
        with mlflow_server(tmp_path_factory.mktemp("team"), "--team", **environment) as server:
            with pytest.MonkeyPatch.context() as patch:
                be("admin", ADMIN_PASSWORD, patch)
                for name, password in MEMBERS.items():
                    make_account(server.address, name, password)
            values = finished_run.settings.model_dump(mode="json") | {"tracking": {"uri": server.address}}
            yield Team(server, port, replace(finished_run, settings=PipelineSettings.from_mapping(values)))


def be(name: str, password: str, patch: pytest.MonkeyPatch) -> None:
    """Work as a member of the team."""
    patch.setenv("MLFLOW_TRACKING_USERNAME", name)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def make_account(address: str, name: str, password: str) -> None:
    """As mlflow/README.md says."""
    from mlflow.server import get_app_client

    get_app_client("basic-auth", tracking_uri=address).create_user(name, password)


def test_a_run_outlives_a_restart_of_the_server(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its processes are killed while a run is being logged, and started again some time after: nothing is lost."""
    caplog.set_level(logging.DEBUG)
    be("ann", MEMBERS["ann"], monkeypatch)
    run, settings, server = team.run, team.settings, team.server
    seen: dict[str, int] = {}
    done = 0

    def restart() -> None:
        while server.log.read_bytes().count(b"runs/log-batch") < 6:
            time.sleep(0.01)
        server.kill()
        seen["steps before"] = done
        time.sleep(1)
        server.start()
        server.wait()
        seen["steps when it was back"] = done

    parent = open_run(FINGERPRINT, settings, root=tmp_path, facts=run.facts)
    restarting = threading.Thread(target=restart)
    restarting.start()
    for record in run.records:
        log_step(parent, record, run.folder(record), settings, root=tmp_path)
        done += 1
    close_run(parent, "FINISHED", settings, root=tmp_path)
    restarting.join()
    assert 0 < seen["steps before"] <= seen["steps when it was back"] < len(run.records), seen

    connection = connect(settings, tmp_path)
    assert connection.client.get_run(parent).info.status == "FINISHED"
    for record in run.records:
        for entry in entries(record, run.folder(record), settings):
            dataset, _, method = (entry.nested or "").partition("/")
            found = nested_run(connection, parent, dataset, method) if method else connection.client.get_run(parent)
            assert found is not None and found.info.status == "FINISHED", entry.nested
            assert found.data.metrics.items() >= {name: value for name, value, _ in entry.metrics}.items()
            assert (
                found.data.params.items()
                >= {name: as_mlflow_text(of, 6000) for name, of in entry.params.items()}.items()
            )
            assert found.data.tags["mlflow.user"] == "ann"
    target = nested_run(connection, parent, "plays", "target")
    assert target is not None
    assert [point.step for point in connection.client.get_metric_history(target.info.run_id, "dev/loss")] == [1, 2, 3]
    assert "history.json" in {file.path for file in connection.client.list_artifacts(target.info.run_id)}
    require_no_secret(caplog.text, "the log of a client")


def test_two_members_register_at_once(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From two folders, the same model: each gets a version of its own, whole, and neither is refused."""
    values = team.settings.model_dump(mode="json")
    values["datasets"] = {"films": values["datasets"]["films"]}
    settings, facts, inputs = PipelineSettings.from_mapping(values), team.run.facts, team.run.inputs
    for name in MEMBERS:
        (tmp_path / name / "out").mkdir(parents=True)
    be("bob", MEMBERS["bob"], monkeypatch)
    given = {
        "inputs": {key: str(path) for key, path in inputs.items()},
        "settings": values,
        "facts": facts,
        "parent": open_run("b0" * 32, settings, root=tmp_path / "bob", facts=facts),
    }
    with subprocess.Popen(
        [sys.executable, "-c", REGISTER],
        cwd=tmp_path / "bob",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as bob:
        assert bob.stdin is not None and bob.stdout is not None and bob.stderr is not None
        bob.stdin.write(json.dumps(given) + "\n")
        bob.stdin.flush()
        be("ann", MEMBERS["ann"], monkeypatch)
        root = tmp_path / "ann"
        parent = open_run("a0" * 32, settings, root=root, facts=facts)
        assert bob.stdout.readline() == "ready\n", bob.stderr.read()
        bob.stdin.write("\n")
        bob.stdin.close()
        [of_ann] = register(settings, inputs, root / "out", parent=parent, root=root, facts=facts)["models"]
        said, complained = bob.stdout.read(), bob.stderr.read()
    assert bob.returncode == 0, complained
    require_no_secret(said + complained, "what bob saw")
    [of_bob] = json.loads(said)["models"]
    assert {of_ann["version"], of_bob["version"]} == {"1", "2"}
    registered = of_ann["name"]

    connection = connect(team.settings, tmp_path)
    for version in connection.client.search_model_versions(f"name = '{registered}'"):
        assert version.tags[DONE] == "complete"
        assert "## Where it came from" in version.description
    aliases = connection.client.get_registered_model(registered).aliases
    assert set(aliases) in ({"challenger"}, {"challenger", "champion"})
    fetched = fetch_model(connection, f"models:/{registered}@challenger", tmp_path / "fetched")
    assert sha256_tree(fetched / "artifacts" / "adapter") == sha256_tree(team.run.inputs["train/films"] / "adapter")
    for file in (path for path in tmp_path.rglob("*") if path.is_file() and "fetched" not in path.parts):
        require_no_secret(file.read_text(errors="replace"), str(file))


def test_a_wrong_password_is_refused_in_one_line(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.server.address)
    (tmp_path / "params.yaml").write_text("datasets: {rotten_tomatoes: {}}\n")
    assert status_of(["history"]) == 1
    assert "asks who you are: set MLFLOW_TRACKING_USERNAME" in capsys.readouterr().err
    be("ann", MEMBERS["bob"], monkeypatch)
    assert status_of(["history"]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "does not let 'ann' in" in said.err
    require_no_secret(said.err, "the refusal")
    be("ann", MEMBERS["ann"], monkeypatch)
    assert status_of(["history"]) == 0
    assert capsys.readouterr().out


def test_strangers_get_nothing(team: Team) -> None:
    """Without an account, not even a list of files; under a name that is not its own, the server does not answer."""

    def status(path: str, **headers: str) -> int:
        try:
            with urllib.request.urlopen(urllib.request.Request(team.server.address + path, headers=headers)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/health") == 200
    assert status("/api/2.0/mlflow/experiments/search?max_results=1") == 401
    assert status("/api/2.0/mlflow-artifacts/artifacts") == 401
    assert status("/api/2.0/mlflow/experiments/search?max_results=1", Host="evil.example") == 403


def test_secrets_stay_in_the_environment(team: Team) -> None:
    """None in what the server says, on its command lines, in its files or in a single row of the database."""
    import psycopg
    from psycopg import sql

    server = team.server
    require_no_secret(server.log.read_text(), "the server's log")
    require_no_secret((server.folder / "mlflow" / "team.ini").read_text(), "the settings of the accounts")
    assert server.process is not None
    of_server = [path for path in Path("/proc").glob("[0-9]*") if group_of(path) == server.process.pid]
    assert of_server
    for path in of_server:
        require_no_secret((path / "cmdline").read_bytes().decode().replace("\0", " "), "a command line")
    where = {"host": "127.0.0.1", "port": team.database, "user": USER, "password": PASSWORD, "dbname": USER}
    with psycopg.connect(**where) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert {"runs", "tags", "params", "users"} <= set(names)
        for name in names:
            rows = connection.execute(sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(name)))
            require_no_secret("\n".join(row for (row,) in rows), f"the table {name}")


def require_no_secret(text: str, where: str) -> None:
    """Make sure that no password is in a text."""
    assert not [secret for secret in SECRETS if secret in text], where


def group_of(process: Path) -> int | None:
    """The process group of a folder of /proc; none when it is gone."""
    try:
        return os.getpgid(int(process.name))
    except ProcessLookupError:
        return None
