"""A user's own file from the draft of its description to the answers of a server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from starlette.testclient import TestClient

from beft.files import write_text
from beft.models.reference import resolve_base
from beft.serving.engine import Engine
from beft.serving.service import Service
from flows.serving.app import Server, create_app
from flows.serving.limits import Limits
from flows.serving.metrics import Metrics
from flows.serving.tokens import Tokens
from flows.serving.updater import Updater
from tasks.serving.registry_source import RegistrySource
from tasks.tracking.connection import Connection
from tests.beft.serving.adapters import COMPUTE
from tests.support.dvc_workspace import DATA_STAGES, PROJECT


def own_workspace(root: Path, base: Path, dataset: str, *, probe_epochs: int, epochs: int) -> None:
    """A workspace whose settings name one dataset, with DVC's stages for it, but not yet its file."""
    settings = {
        "base": {"source": str(base), "device": "cpu", "precision": "fp32", "threads": 1},
        "datasets": {dataset: {"size": "all", "max_length": 16}},
        "split": {"test_rows": 60, "gate_rows": 60},
        "probe": {"epochs": probe_epochs},
        "train": {"epochs": epochs, "learning_rate": 0.02},
        "evaluate": {"resamples": 200},
    }
    write_text(root / "params.yaml", yaml.safe_dump(settings))
    stages = {name: {"foreach": "${datasets}", "do": stage} for name, stage in DATA_STAGES.items()}
    write_text(root / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    write_text(root / ".dvc" / "config", (PROJECT / ".dvc" / "config").read_text())


def beft(root: Path, *arguments: str) -> str:
    """Run a command of beft in a workspace; what it printed."""
    unset = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_PROFILE")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=root,
        env=inherited | {"PYTHONPATH": str(PROJECT), "PREFECT_HOME": str(root / "home")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PREDICT = """
import json, sys
import mlflow, pandas
uri, model, base, rows = sys.argv[1:]
mlflow.set_tracking_uri(uri)
loaded = mlflow.pyfunc.load_model(model, model_config={"base": base, "device": "cpu"})
found = loaded.predict(pandas.DataFrame(json.loads(rows)))
print(json.dumps([found.to_dict("records"), loaded.metadata.get_output_schema().input_names()]))
"""


def predict_registered(
    connection: Connection, model: str, base: Path, rows: Sequence[Mapping[str, str]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """What MLflow's model gives for rows, and its columns, in a process of its own: it brings its own copy of beft."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, connection.uri, model, str(base), json.dumps(list(rows))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records, columns = json.loads(done.stdout.strip().splitlines()[-1])
    return records, columns


@contextmanager
def serving(connection: Connection, base: Path) -> Iterator[TestClient]:
    """A client of a server of all that the registry has for a base."""
    metrics = Metrics()
    service = Service([Engine(resolve_base(str(base)), replace(COMPUTE))], on_batch=metrics.count_batch)
    updater = Updater(service, RegistrySource(connection, ("beft-*",), ("champion", "challenger")))
    updater.update()
    server = Server(service, limits=Limits(), tokens=Tokens(), metrics=metrics, updater=updater)
    try:
        yield TestClient(create_app(server), base_url="http://127.0.0.1")
    finally:
        server.close()
