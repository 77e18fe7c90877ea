"""The decisions taken on a gate split: counted, since each one spends some of what its rows can still tell.

A split on which many candidates were tried starts to choose by its own chance, as a test split would.
"""

from pathlib import Path

from tasks.connection import Connection
from tasks.journal import read_journal

DECISION = "gate decision"
"""The kind of journal entry that stands for one."""


def decisions_on(connection: Connection, journal: Path, gate_sha256: str) -> set[str]:
    """The ids of all decisions that were taken on a gate split, by the journal and by the registry.

    Args:
        gate_sha256: The hash of the split's file.
    """
    noted = {
        str(entry["id"])
        for entry in read_journal(journal)
        if entry.get("kind") == DECISION and entry.get("gate_sha256") == gate_sha256
    }
    tagged = {
        value
        for version in connection.client.search_model_versions(f"tags.gate_sha256 = '{gate_sha256}'")
        for tag, value in version.tags.items()
        if tag in ("gate_decision", "promotion_decision")
    }
    return noted | tagged
