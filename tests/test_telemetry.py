"""No tool reports anything to anybody, asked of each tool itself in a process that nothing else has quietened."""

import configparser
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks.environment import QUIET

ROOT = Path(__file__).parent.parent

ASK = """
    import importlib.util, json, os, sys
    if sys.argv[1] == "settled":
        from tasks.environment import configure_environment
        configure_environment()
    import dvc.analytics
    import huggingface_hub.constants
    import mlflow.environment_variables
    import mlflow.telemetry.utils
    from prefect._internal.analytics.enabled import is_telemetry_enabled
    from prefect.settings import get_current_settings
    answers = {
        "dvc": dvc.analytics.is_enabled(),
        "huggingface_hub": not huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY,
        "mlflow": not mlflow.telemetry.utils.is_telemetry_disabled(),
        "mlflow's background jobs": bool(mlflow.environment_variables.MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get()),
        "prefect": is_telemetry_enabled(),
        "prefect's server": get_current_settings().server.analytics_enabled,
    }
    if sys.argv[1] == "settled":
        import evaluate.config
        answers["evaluate's look-ups"] = not evaluate.config.HF_EVALUATE_OFFLINE
        # Great Expectations 1.24 has no reporting any more; if it comes back, this is where its switch was.
        if importlib.util.find_spec("great_expectations.analytics"):
            from great_expectations.analytics.config import ENV_CONFIG
            answers["great_expectations"] = ENV_CONFIG.gx_analytics_enabled
    sys.stdout.write("\\n" + json.dumps(answers))
"""


def quiet_by_nobody(folder: Path) -> dict[str, str]:
    """The environment without our variables, and without those by which tools notice a test or CI."""
    noticed = {"CI", "PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "DVC_TEST"}
    kept = {name: value for name, value in os.environ.items() if name not in QUIET and name not in noticed}
    return kept | {"HOME": str(folder), "PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(ROOT)}


def answers(state: str, folder: Path) -> dict[str, bool]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ASK), state],
        cwd=folder,
        env=quiet_by_nobody(folder),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_tool_is_quiet(tmp_path: Path) -> None:
    found = answers("settled", tmp_path)
    assert len(found) >= 7
    assert not any(found.values()), found


def test_the_tools_would_report_otherwise(tmp_path: Path) -> None:
    """The check can fail: this is what the tools do when nobody tells them not to."""
    found = answers("as they come", tmp_path)
    assert found["dvc"] and found["mlflow"] and found["prefect"] and found["prefect's server"]


@pytest.mark.parametrize("module", ["flows.cli", "tasks"])
def test_every_way_in_settles_the_environment(module: str, tmp_path: Path) -> None:
    program = (
        "import atexit, json, os, runpy, sys\n"
        f"sys.argv = [{module!r}, '--help']\n"
        "atexit.register(lambda: sys.stdout.write('\\n' + json.dumps(dict(os.environ))))\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=quiet_by_nobody(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    environment = json.loads(done.stdout.splitlines()[-1])
    assert {name: environment.get(name) for name in QUIET} == QUIET


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.environment import configure_environment

    for name in QUIET:
        monkeypatch.setenv(name, "as it was")
    configure_environment()
    assert {os.environ[name] for name in QUIET} == {"as it was"}


def test_the_projects_dvc_is_quiet_without_the_environment() -> None:
    """`dvc repro` typed by hand reads the project's configuration and none of our variables."""
    configuration = configparser.ConfigParser()
    configuration.read_string(textwrap.dedent((ROOT / ".dvc" / "config").read_text()))
    assert configuration.getboolean("core", "analytics") is False
