"""What processes get of the environment: no password, and the variables of the run that they work for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.environment import adopt, configure_environment, environment_of_strangers, environment_without_secrets


def test_a_worker_has_the_variables_of_the_run_that_it_works_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for many runs, and was started with a folder of data of its own or without one."""
    monkeypatch.setattr("tasks.environment._AT_START", frozenset())
    for name in ("BEFT_DATA_DIR", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "of the worker")
    adopt({"BEFT_DATA_DIR": "/one", "HF_HUB_OFFLINE": "1"})
    assert (os.environ["BEFT_DATA_DIR"], os.environ["HF_HUB_OFFLINE"]) == ("/one", "1")
    adopt({"BEFT_DATA_DIR": "/other"})
    assert os.environ["BEFT_DATA_DIR"] == "/other" and "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setattr("tasks.environment._AT_START", frozenset({"BEFT_DATA_DIR"}))
    adopt({})
    assert os.environ["BEFT_DATA_DIR"] == "/other"


@pytest.mark.parametrize(
    "name",
    [
        "DATABRICKS_CLIENT_SECRET",
        "DATABRICKS_PASSWORD",
        "DATABRICKS_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_KEY",
        "PREFECT_CLIENT_CUSTOM_HEADERS",
    ],
)
def test_steps_get_no_password_of_a_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "secret")
    assert name not in environment_without_secrets()


@pytest.mark.parametrize(
    ("said", "found"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_briefly_unless_the_user_says_how(
    said: dict[str, str], found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number would override the policy. A rebuild has what the training had."""
    others = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    monkeypatch.setattr(os, "environ", others | said)
    configure_environment(tmp_path)
    assert os.environ.get("GOMP_SPINCOUNT") == found
    assert environment_of_strangers().get("GOMP_SPINCOUNT") == found


@pytest.mark.parametrize("module", ["flows.cli", "tasks.__main__", "tasks.engine.worker", "flows.adapt"])
def test_torch_is_loaded_after_the_environment_is_set(module: str) -> None:
    """GNU OpenMP reads its variables when it is loaded; the command line and the worker set them in ``main``."""
    command = (
        "import importlib, sys\n"
        "from tasks import environment\n"
        "loaded = []\n"
        "set_it = environment.configure_environment\n"
        "environment.configure_environment = lambda *given: (loaded.append('torch' in sys.modules), set_it(*given))\n"
        f"importlib.import_module({module!r})\n"
        "sys.exit(loaded[0] if loaded else 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command], check=True)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "localhost,127.0.0.1,::1"),
        (
            {"http_proxy": "http://proxy:3128", "NO_PROXY": "example.org, 127.0.0.1"},
            "example.org,127.0.0.1,localhost,::1",
        ),
        ({"HTTP_PROXY": "http://proxy:3128", "no_proxy": "*"}, "*"),
    ],
)
def test_servers_of_this_machine_are_asked_without_a_proxy(
    variables: dict[str, str], found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy knows nothing of the temporary Prefect server: a run would wait for minutes and fail."""
    others = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    monkeypatch.setattr(os, "environ", others | variables)
    for _ in range(2):
        configure_environment(tmp_path)
    assert os.environ.get("no_proxy") == found
    assert os.environ.get("NO_PROXY") == (None if found == "*" else found)
