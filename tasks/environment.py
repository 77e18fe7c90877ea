"""The one place that sets the environment of the tools: no telemetry, their files inside the project.

Prefect, MLflow, DVC, Great Expectations and the Hugging Face libraries read these variables when they are imported, so
whoever starts a process calls ``configure_environment`` before it imports any of them. What the user has set stays.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from beft.limits import usable_cores
from tasks.passwords import holds_password

_DATA_FOLDER = "BEFT_DATA_DIR"
_READ_BY_STEPS = (_DATA_FOLDER, "HF_HUB_OFFLINE")
_AT_START = frozenset(os.environ)

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
    "PREFECT_LOGGING_EXTRA_LOGGERS": "beft,tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
"""How the tools behave here: their pages show our log lines; a slow machine has time to start Prefect's own server."""

WAIT_POLICY, SPIN_COUNT = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"

SPINS = "3000"
"""How often a thread of torch looks whether the others are ready before it sleeps; GNU OpenMP alone does it 100 times
as often, and a training of two threads takes 2 to 6 times as long as soon as another program wants their cores
(docs/decisions/slots-and-locks.md). Alone the two differ by less than the spread."""

SECRETS = frozenset(
    {
        "DATABRICKS_CLIENT_SECRET",
        "DATABRICKS_OIDC_TOKEN",
        "DATABRICKS_PASSWORD",
        "DATABRICKS_REFRESH_TOKEN",
        "DATABRICKS_TOKEN",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_UC_OSS_TOKEN",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
        "PGPASSWORD",
        "PREFECT_API_AUTH_STRING",
        "PREFECT_API_DATABASE_CONNECTION_URL",
        "PREFECT_API_KEY",
        "PREFECT_CLIENT_CUSTOM_HEADERS",
        "PREFECT_SERVER_API_AUTH_STRING",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        "PREFECT_SERVER_DATABASE_PASSWORD",
        "PREFECT_SERVER_DOCKET_URL",
    }
)
"""Of MLflow's and Prefect's servers: for processes that talk to them, and for no other."""

_HARMLESS = frozenset(
    {
        "BEFT_DATA_DIR",
        "BEFT_GPUS",
        "CURL_CA_BUNDLE",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "PYTHONPATH",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "USER",
        "XDG_CACHE_HOME",
        *QUIET,
        *TOOLS,
    }
)
_HARMLESS_PREFIXES = ("HF_", "LC_", "CUBLAS_", "CUDA_", "GOMP_", "KMP_", "MKL_", "OMP_", "PYTORCH_", "TORCH_")
_PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})


def environment_without_secrets() -> dict[str, str]:
    """The environment for a process that talks to neither MLflow nor Prefect."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def environment_of_strangers() -> dict[str, str]:
    """The environment for source that is not ours: only what is listed here, and no token of the model hub.

    That is what it needs to find programs, data and the hub, and what can change the last bits of a result.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _HARMLESS
        or (name.startswith(_HARMLESS_PREFIXES) and "TOKEN" not in name)
        or (name.upper() in _PROXIES and not holds_password(value))
    }


def carried_to_workers() -> dict[str, str]:
    """The variables that steps read, for a Dask worker, which was started without them; paths are in full."""
    found = {name: os.environ[name] for name in _READ_BY_STEPS if name in os.environ}
    if found.get(_DATA_FOLDER):
        found[_DATA_FOLDER] = str(Path(found[_DATA_FOLDER]).expanduser().resolve())
    return found


def adopt(variables: Mapping[str, str]) -> None:
    """On a worker: take over the variables of the process that runs the flow, but for those it was started with.

    What an earlier run set and this one does not is taken back.
    """
    for name in _READ_BY_STEPS:
        if name in _AT_START:
            continue
        os.environ.pop(name, None)
        if name in variables:
            os.environ[name] = variables[name]


_AS_URI = "?uri=true"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def configure_environment(root: Path | None = None) -> None:
    """Set what is not set yet: no telemetry, and Prefect's home in ``root`` (default: the current folder).

    Where a proxy is named, this machine's own servers are asked without it: Prefect's temporary one is one of them.
    """
    _reach_own_servers_directly()
    for name, value in (QUIET | TOOLS).items():
        os.environ.setdefault(name, value)
    if WAIT_POLICY not in os.environ:  # which the number would override
        os.environ.setdefault(SPIN_COUNT, SPINS)
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.pop("PREFECT_API_URL", None)  # Prefect takes an empty address for one, and sends its events nowhere
    if (cores := usable_cores()) < (os.cpu_count() or 1):  # numerical libraries see the host's cores, not the quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    home = os.environ.setdefault("PREFECT_HOME", str((root or Path.cwd()).resolve() / ".prefect"))
    database = sqlite_uri(Path(home) / "prefect.db", driver="sqlite+aiosqlite")
    if database.endswith(_AS_URI) and "PREFECT_API_DATABASE_CONNECTION_URL" not in os.environ:
        os.environ.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)


def _reach_own_servers_directly() -> None:
    """Add this machine to the hosts that need no proxy; libraries differ in which spelling they read first."""
    if not any(name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in os.environ):
        return
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if "*" in hosts:
        return
    hosts += [host for host in _LOOPBACK if host not in hosts]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def sqlite_uri(path: Path, *, driver: str = "sqlite") -> str:
    """The address of a database file, as SQLAlchemy, MLflow and Prefect take it.

    In a plain address a question mark begins the options, so that another file would be opened: such a path is escaped.
    """
    if not set("?#%") & set(str(path)):
        return f"{driver}:///{path}"
    return f"{driver}:///file:{quote(str(path))}{_AS_URI}"


def stay_offline() -> None:
    """Forbid look-ups on the model hub: for runs whose base and data are all on this machine.

    On a network that swallows packets a look-up hangs for minutes.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
