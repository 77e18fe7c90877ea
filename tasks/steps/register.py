"""register: the adapters of a run as versions in the MLflow registry, and which of them become champion.

Everything is looked for before it is made, so a registration that was interrupted is finished and none is made twice.
Whatever the registry cannot tell later is written to the journal first.
"""

from collections.abc import Mapping
from pathlib import Path

from beft.adapters.adapter import Adapter
from beft.evaluation.promotion.certainty import decision_certainty
from beft.evaluation.records import NO_GATE
from beft.files import read_json, write_json, write_text
from tasks.engine.declaration import JSON, Step
from tasks.model_name import model_name
from tasks.registry.aliases import CHALLENGER, CHAMPION, Turn, alias_lock
from tasks.registry.gate import GateDecisions
from tasks.registry.versions import (
    EVALUATION_TAG,
    Candidate,
    describe,
    ensure_registered_model,
    find_version,
    make_version,
    note_version,
    show_evaluation,
)
from tasks.reporting.results import read_datasets
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect, translate_errors, versions_of
from tasks.tracking.entries import TARGET, as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT
from tasks.tracking.runs import FLOW, nested_run

DONE = "registration"
"""The tag of a version whose registration was finished: aliases are then never touched again by this step."""

_PATIENCE_SECONDS = 600.0  # others that register the same model, on other machines perhaps, copy their files meanwhile


@translate_errors
def register(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    parent: str,
    root: Path,
    facts: Mapping[str, JSON],
    trained: Mapping[str, Mapping[str, JSON]] | None = None,
) -> dict[str, JSON]:
    """Register the adapter of every dataset, decide on the gate split, set the aliases; write what was done.

    Args:
        parent: The parent run in MLflow.
        root: The project's folder.
        facts: Data hashes, source hash, commit and the like, which become tags.
        trained: Dataset to the same, as the process that trained on it found them.

    Raises:
        BeftError: MLflow cannot be reached.
    """
    connection = connect(settings, root)
    run = connection.client.get_run(parent)
    models = []
    for results in read_datasets(settings, inputs):
        adapter = Adapter.load(results.folders["train"] / "adapter")
        candidate = Candidate(
            results=results,
            adapter=adapter,
            settings=settings,
            facts=(trained or {}).get(results.name, facts),
            fingerprint=run.data.tags[FLOW],
            name=model_name(settings.tracking.model_prefix, adapter.base_id, results.name),
            run=nested_run(connection, parent, results.name, TARGET) or run,
        )
        models.append(_register(connection, candidate, Path(root), out))
    write_json(out / "registration.json", {"models": models})
    shortened = ("dataset", "name", "version", "aliases", "champion", "decision", "reason", "rebuild")
    return {"models": [{key: model[key] for key in shortened} for model in models]}


def still_registered(settings: PipelineSettings, folder: Path, root: Path) -> bool:
    """Whether every version that a registration made is still in the registry."""
    from mlflow.exceptions import MlflowException

    client = connect(settings, root).client
    try:
        for model in read_json(folder / "registration.json")["models"]:
            version = client.get_model_version(model["name"], model["version"])
            if version.tags.get("adapter_sha256") != model["adapter_sha256"]:
                return False
    except (MlflowException, OSError, ValueError, KeyError):
        return False
    return True


def _register(connection: Connection, candidate: Candidate, root: Path, out: Path) -> dict[str, JSON]:
    client, name = connection.client, candidate.name
    ensure_registered_model(connection, candidate)
    # From the look for what is there already to the aliases: the same run may be going on elsewhere.
    with alias_lock(connection, name, root, patience=_PATIENCE_SECONDS) as turn:
        version = find_version(connection, candidate) or make_version(connection, candidate)
        number = str(version.version)
        if version.tags.get(DONE) != "complete":
            note_version(connection, version)
            _decide(connection, candidate, number, turn, root)
            client.set_model_version_tag(name, number, DONE, "complete")
        elif version.tags.get(EVALUATION_TAG) not in (None, candidate.evaluation_sha256):
            show_evaluation(connection, candidate, version)
    version = client.get_model_version(name, number)
    aliases = sorted(alias for alias, of in client.get_registered_model(name).aliases.items() if str(of) == number)
    write_text(out / f"card-{candidate.results.name}.md", version.description or "")
    return {
        "dataset": candidate.results.name,
        "name": name,
        "version": number,
        "aliases": aliases,
        "champion": "champion" in aliases,
        "decision": version.tags["decision"],
        "reason": version.tags["reason"],
        "gate_decisions": int(version.tags.get("gate_decisions", 0)),
        "rebuild": candidate.rebuildable.summary,
        "adapter_sha256": candidate.adapter.sha256,
        "model_id": str(version.tags["model_id"]) if "model_id" in version.tags else None,
    }


def _decide(connection: Connection, candidate: Candidate, version: str, turn: Turn, root: Path) -> None:
    """Challenger where no later version is; champion where there is none yet and the gain on gate is certain."""
    client, name = connection.client, candidate.name
    there = {str(found.version) for found in versions_of(connection, name)}
    champion = turn.aliases.get(CHAMPION)
    subject = {**candidate.identity, "model": name}
    has_gate = candidate.results.evaluation.has_gate
    tags: dict[str, JSON] = {"gate_sha256": candidate.gate_sha256} if has_gate else {}
    if not has_gate:
        tags["decision"] = "challenger"
        tags["reason"] = f"no champion, since nothing was decided: {NO_GATE}"
    elif champion in there and champion != version:
        tags["decision"] = "challenger"
        tags["reason"] = (
            f"version {champion} is champion, and a run does not replace one; no decision was taken on the gate split"
        )
    else:
        decision = candidate.results.evaluation.decision("gate")
        missing = candidate.rebuildable.missing
        tags["decision"] = "champion" if decision.passed and not missing else "challenger"
        if decision.passed and missing:
            verdict = f"no champion, since {candidate.rebuildable.summary}; its gain is certain on the gate split"
        elif decision.passed:
            verdict = "there was no champion yet, and its gain over each baseline is certain on the gate split"
        else:
            certainty = decision_certainty(candidate.results.data, candidate.results.evaluation.confidence)
            verdict = f"no champion, since its gain over each baseline is not certain on the gate split ({certainty})"
        tags["reason"] = f"{verdict}: {'; '.join(decision.reasons)}"
        taken = GateDecisions(candidate.settings, root)
        tags["gate_decision"] = taken.note(subject, model=name, version=version, **tags, **candidate.identity)
        tags["gate_decisions"] = len(taken.on(candidate.gate_sha256))
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, as_mlflow_text(value, REGISTRY_TEXT))
    describe(connection, candidate, version, tags)
    moves = {CHAMPION: version} if tags["decision"] == CHAMPION else {}
    challenger = turn.aliases.get(CHALLENGER)
    if challenger not in there or int(challenger) < int(version):  # a registration that was cut short may end late
        moves[CHALLENGER] = version
    turn.move(moves, subject=[subject, "registered"], reason=tags["reason"])


register_step = Step(
    register,
    reads=("prepare", "validate_raw", "validate", "probe", "score", "train", "evaluate", "merge", "report"),
    settings=("*",),
    per_dataset=False,
    source=("mlflow/pyfunc_model.py",),
    effects_still_valid=still_registered,
)
