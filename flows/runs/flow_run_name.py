"""The id of a flow run in Prefect, and its name: its base and its datasets."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_LONGEST = 120


def flow_run_id() -> str | None:
    """The id of the flow run that is going on; None outside of one."""
    from prefect.runtime import flow_run

    return str(flow_run.id) if flow_run.id else None


def flow_run_name() -> str:
    """``BASE · DATASETS`` of the flow run that starts; Prefect calls this once it knows the parameters."""
    from prefect.runtime import flow_run

    parameters: Mapping[str, Any] = flow_run.parameters
    settings, request = _plain(parameters.get("settings")), _plain(parameters.get("request"))
    changed = request.get("changes", {}).get("base.source")
    bases = request.get("models") or [changed or settings.get("base", {}).get("source")]
    datasets = request.get("datasets", ()) if request else settings.get("datasets", {})
    parts = [request.get("name"), ", ".join(filter(None, bases)), " + ".join(datasets)]
    name = " · ".join(part for part in parts if part)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _plain(value: Any) -> Mapping[str, Any]:
    """A parameter as JSON: Prefect gives it as it was passed, from a deployment as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value or {}
