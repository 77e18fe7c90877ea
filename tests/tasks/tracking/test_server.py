"""A real MLflow server: runs, files and models go through it, and a fresh process loads the model from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beft.errors import BeftError
from beft.files import read_json, sha256_json, sha256_tree
from tasks.registry.registered import registered_adapter
from tasks.settings import PipelineSettings
from tasks.steps.register import register, still_registered
from tasks.tracking.connection import TRIES, connect
from tasks.tracking.runs import close_run, log_step, nested_run, open_run
from tests.support.finished_run import FINGERPRINT, FinishedRun
from tests.support.servers.mlflow_server import mlflow_server
from tests.support.servers.relay import relay_to
from tests.tasks.steps.test_registered_model import SERVED
from tests.tasks.tracking.test_runs import log_all

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("_no_tracking_address")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with its own database and artifacts."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running.address


def test_a_run_and_its_models_go_through_a_server(finished_run: FinishedRun, server: str, tmp_path: Path) -> None:
    values = finished_run.settings.model_dump(mode="json") | {"tracking": {"uri": server, "model_prefix": "team"}}
    run = FinishedRun(
        PipelineSettings.from_mapping(values),
        finished_run.inputs,
        finished_run.records,
        finished_run.facts,
        finished_run.base,
    )
    root, out = tmp_path / "project", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    parent = log_all(run, root)
    summary = register(run.settings, run.inputs, out, parent=parent, root=root, facts=run.facts)
    close_run(parent, "FINISHED", run.settings, root=root)
    again = register(run.settings, run.inputs, out, parent=parent, root=root, facts=run.facts)
    assert again == summary
    assert still_registered(run.settings, out, root=root)

    # Nothing but the journal and locks are in the project, and the process's own default was left alone.
    left = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert {path for path in left if not path.startswith("runs/locks/")} == {"mlflow/journal.jsonl"}
    assert "MLFLOW_TRACKING_URI" not in os.environ
    connection = connect(run.settings, root)
    assert connection.client.get_run(parent).info.status == "FINISHED"
    target = nested_run(connection, parent, "films", "target")
    assert target is not None
    evaluation = read_json(run.inputs["evaluate/films"] / "evaluation.json")
    expected = evaluation["splits"]["test"]["scores"][evaluation["target"]]["accuracy"]["value"]
    assert target.data.metrics["test/accuracy"] == expected
    assert "history.json" in {file.path for file in connection.client.list_artifacts(target.info.run_id)}

    (tmp_path / "served.py").write_text(SERVED)
    model = next(model for model in summary["models"] if model["dataset"] == "films")
    assert model["name"].startswith("team-")
    uri = f"models:/{model['name']}@challenger"
    done = subprocess.run(
        [sys.executable, "-I", "served.py", server, uri, str(run.base)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "probability_positive" in done.stdout


def test_models_load_through_the_server_and_without_it(finished_run: FinishedRun, tmp_path: Path) -> None:
    """One is registered through the project's server, one in its database, and the server is started once more."""
    root = tmp_path / "project"
    root.mkdir()
    values = finished_run.settings.model_dump(mode="json")

    def registered(dataset: str, address: str | None) -> str:
        tracking = {"uri": address, "model_prefix": "here" if address is None else "served"}
        own = {"datasets": {dataset: values["datasets"][dataset]}, "tracking": tracking}
        settings = PipelineSettings.from_mapping(values | own)
        out = tmp_path / f"registered {dataset}"
        out.mkdir(exist_ok=True)
        facts = finished_run.facts
        parent = open_run(sha256_json([dataset, address]), settings, root=root, facts=facts)
        [model] = register(settings, finished_run.inputs, out, parent=parent, root=root, facts=facts)["models"]
        return f"models:/{model['name']}/{model['version']}"

    def require_loaded(models: dict[str, str], address: str | None) -> None:
        settings = PipelineSettings.from_mapping({"tracking": {"uri": address}})
        for dataset, model in models.items():
            with registered_adapter(model, settings, root) as adapter:
                assert sha256_tree(adapter) == sha256_tree(finished_run.inputs[f"train/{dataset}"] / "adapter")

    with mlflow_server(root) as server:
        models = {"films": registered("films", server.address)}
    require_loaded(models, None)
    models["plays"] = registered("plays", None)
    require_loaded(models, None)
    server.start()
    try:
        server.wait()
        require_loaded(models, server.address)
        assert registered("plays", server.address) not in models.values()
    finally:
        server.kill()


def test_a_call_whose_answer_broke_off_is_made_again(finished_run: FinishedRun, server: str, tmp_path: Path) -> None:
    """The server did what it was asked, and was stopped before it had said so: nothing is lost, nothing is twice."""
    with relay_to(server, "/runs/log-batch") as relay:
        tracking = {"uri": relay.address, "experiment": "broken"}
        values = finished_run.settings.model_dump(mode="json") | {"tracking": tracking}
        settings = PipelineSettings.from_mapping(values)
        relay.breaks = 1
        parent = open_run(FINGERPRINT, settings, root=tmp_path, facts=finished_run.facts)
        for record in finished_run.records:
            relay.breaks = TRIES - 1
            log_step(parent, record, finished_run.folder(record), settings, root=tmp_path)
        assert len(relay.broken) > len(finished_run.records)
        relay.breaks = 0
        close_run(parent, "FINISHED", settings, root=tmp_path)
        connection = connect(settings, tmp_path)
        named = [run.data.tags.get("beft.nested") for run in connection.client.search_runs([connection.experiment])]
        assert len(named) == len(set(named)), named
        target = nested_run(connection, parent, "plays", "target")
        assert target is not None
        losses = connection.client.get_metric_history(target.info.run_id, "dev/loss")
        assert [point.step for point in losses] == [1, 2, 3]

        relay.breaks = TRIES
        with pytest.raises(BeftError, match=r"MLflow refused: .*Connection broken"):
            open_run("c0" * 32, settings, root=tmp_path, facts=finished_run.facts)
        assert relay.breaks == 0
