"""The one place that sets the environment of the tools: no telemetry, their files inside the project.

Prefect, MLflow, DVC, Great Expectations and the Hugging Face libraries read these variables when they are imported, so
whoever starts a process calls :func:`settle` before it imports any of them. What the user has set stays.
"""

import os
from pathlib import Path

from beft.limits import usable_cores

QUIET = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Telemetry and everything else that leaves the machine: off."""

TOOLS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for one another do not burn a core that others need
    "PREFECT_LOGGING_EXTRA_LOGGERS": "beft,tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
"""How the tools behave here: their pages show our log lines; a slow machine has time to start Prefect's own server."""


def settle(root: Path | None = None) -> None:
    """Set what is not set yet: no telemetry, and Prefect's home in ``root`` (default: the current folder)."""
    for name, value in (QUIET | TOOLS).items():
        os.environ.setdefault(name, value)
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.pop("PREFECT_API_URL", None)  # Prefect takes an empty address for one, and sends its events nowhere
    if (cores := usable_cores()) < (os.cpu_count() or 1):  # numerical libraries see the host's cores, not the quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    os.environ.setdefault("PREFECT_HOME", str((root or Path.cwd()).resolve() / ".prefect"))


def stay_offline() -> None:
    """Forbid look-ups on the model hub: for runs whose base and data are all on this machine.

    On a network that swallows packets a look-up hangs for minutes.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
