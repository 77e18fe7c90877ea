"""The decisions taken on a gate split: counted, since each one spends some of what its rows can still tell.

A split on which many candidates were tried starts to choose by its own chance, as a test split would. Every decision is
a run in an experiment beside that of the main job, and those of all such experiments of a registry count: whoever
shares it counts the same ones, whatever their experiments are called.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from beft.files import sha256_json
from tasks.engine.declaration import JSON
from tasks.registry.journal import append_entry, journal_path, read_journal
from tasks.settings import PipelineSettings
from tasks.tracking.connection import connect, every, in_experiment
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT, RUN_NAME

_SUFFIX = "-decisions"

DECISION = "gate decision"
"""The kind of journal entry that stands for one."""

_ID, _GATE = "beft.decision", "gate_sha256"
_ABOUT = "Decisions on gate splits: one run for each. They are counted, so leave them here."
_OF_VERSIONS = ("gate_decision", "promotion_decision")
"""The tags of a version that name the last decisions on it."""


def decision_id(subject: JSON) -> str:
    """The id of the decision on a subject, a JSON value; the same for the same one."""
    return sha256_json([DECISION, subject])


class GateDecisions:
    """The decisions that are known to the registry and to the journal of this workspace."""

    def __init__(self, settings: PipelineSettings, root: Path) -> None:
        self._connection = connect(in_experiment(settings, _SUFFIX), root, about=_ABOUT)
        self._journal = journal_path(root)

    def on(self, gate_sha256: str) -> set[str]:
        """The ids of all decisions on a gate split: in experiments, in the journal and in the tags of versions.

        One that no experiment has is added to our own: versions can be deleted, and workspaces get lost.

        Args:
            gate_sha256: The hash of the split's file.
        """
        runs = self._runs()
        journal = {str(entry["id"]): entry for entry in read_journal(self._journal) if entry.get("kind") == DECISION}
        elsewhere: dict[str, Mapping[str, JSON]] = {
            decision: entry for decision, entry in journal.items() if entry.get(_GATE) == gate_sha256
        }
        # The tags of a version name one gate: which of its decisions were taken there, a run or the journal may know.
        tagged = self._of_versions(gate_sha256).items()
        elsewhere |= {decision: facts for decision, facts in tagged if decision not in runs and decision not in journal}
        for decision, facts in elsewhere.items():
            if decision not in runs:
                self._add(decision, facts)
        return {decision for decision, gate in runs.items() if gate == gate_sha256} | set(elsewhere)

    def note(self, subject: JSON, **facts: JSON) -> str:
        """Write a decision into the journal and into the experiment; its id. The same one is written once.

        Args:
            subject: What makes it this decision and no other.
            facts: Among them ``gate_sha256``, ``model`` and ``version``.
        """
        decision = append_entry(self._journal, DECISION, subject, **facts)
        if decision not in self._runs():
            self._add(decision, facts)
        return decision

    def _runs(self) -> dict[str, str | None]:
        """Decision to gate split; what was deleted in MLflow's pages counts as well."""
        from mlflow.entities import ViewType

        client, wanted = self._connection.client, f"name LIKE '%{_SUFFIX}'"
        experiments = every(client.search_experiments, view_type=ViewType.ALL, filter_string=wanted)
        places = [experiment.experiment_id for experiment in experiments]
        found = every(client.search_runs, places, run_view_type=ViewType.ALL)
        return {run.data.tags[_ID]: run.data.tags.get(_GATE) for run in found if _ID in run.data.tags}

    def _of_versions(self, gate_sha256: str) -> dict[str, Mapping[str, JSON]]:
        found = every(self._connection.client.search_model_versions, f"tags.{_GATE} = '{gate_sha256}'")
        return {
            version.tags[tag]: {_GATE: gate_sha256, "model": version.name, "version": str(version.version)}
            for version in found
            for tag in _OF_VERSIONS
            if tag in version.tags
        }

    def _add(self, decision: str, facts: Mapping[str, JSON]) -> None:
        client = self._connection.client
        when = facts.get("time")
        taken = datetime.fromisoformat(str(when)) if when else datetime.now(UTC)
        milliseconds = round(1000 * taken.timestamp())
        tags = {
            name: as_mlflow_text(value, REGISTRY_TEXT)
            for name, value in facts.items()
            if name not in ("id", "kind", "time")
        }
        run = client.create_run(
            self._connection.experiment,
            start_time=milliseconds,
            run_name=as_mlflow_text(f"{facts.get('model')} version {facts.get('version')}", RUN_NAME),
            tags=tags | {_ID: decision},
        )
        client.update_run(run.info.run_id, status="FINISHED")  # ``set_terminated`` would write to standard output
