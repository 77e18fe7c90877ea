"""What is different for a run that a deployment started: nobody sits before it."""

from prefect.runtime import deployment

_PATIENCE = 6 * 3600.0


def lock_timeout() -> float:
    """Seconds to wait for a run that is going on in the workspace: none for one that somebody typed, who is told."""
    return _PATIENCE if deployment.id else 0.0
