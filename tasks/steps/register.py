"""register: the adapters of a run as versions in the MLflow registry, and which of them become champion.

Everything is looked for before it is made, so a registration that was interrupted is finished and none is made twice.
Whatever the registry cannot tell later is written to the journal first.
"""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from beft.adapters.adapter import Adapter
from beft.datasets.prepared import load_split
from beft.errors import BeftError
from beft.evaluation.promotion.certainty import decision_certainty
from beft.evaluation.scores import NO_GATE
from beft.files import read_json, sha256_file, sha256_json, write_json, write_text
from beft.models.base import resolve_base
from tasks.engine.declaration import JSON, Step
from tasks.model_name import model_name
from tasks.project_files import PROJECT
from tasks.registry.aliases import CHALLENGER, CHAMPION, Turn, deciding
from tasks.registry.card import model_card
from tasks.registry.gate import GateDecisions
from tasks.registry.package import save_model
from tasks.registry.rebuildable import Rebuildable, has_commit, rebuildable
from tasks.reporting.results import DatasetResults, read_datasets
from tasks.settings import PipelineSettings
from tasks.source_archive import KEPT, keep_source
from tasks.tracking.connection import Connection, as_default, connect, every, explained, versions_of
from tasks.tracking.entries import TARGET, shown
from tasks.tracking.flat_settings import ELSEWHERE
from tasks.tracking.limits import REGISTRY_TEXT, RUN_NAME
from tasks.tracking.runs import FLOW, nested_run

log = logging.getLogger(__name__)

DONE = "registration"
"""The tag of a version whose registration was finished: aliases are then never touched again by this step."""

_EVALUATION = "evaluation_sha256"
_PATIENCE_SECONDS = 600.0  # others that register the same model, on other machines perhaps, copy their files meanwhile


@dataclass(frozen=True)
class _Candidate:
    """An adapter that is to be registered, and everything that is known of it."""

    results: DatasetResults
    adapter: Adapter
    settings: PipelineSettings
    facts: Mapping[str, JSON]
    fingerprint: str
    name: str
    run: Any

    @property
    def identity(self) -> dict[str, str]:
        """What makes it this registration and no other, as tags."""
        return {"flow_fingerprint": self.fingerprint, "adapter_sha256": self.adapter.sha256}

    @cached_property
    def rebuildable(self) -> Rebuildable:
        """Whether it can be trained again from what is registered."""
        data, pushed = self.results.data, self.settings.versioning.push
        return rebuildable(self.facts, data, self.adapter, PROJECT, pushed=pushed)

    @cached_property
    def evaluation_sha256(self) -> str:
        """The hash of the numbers that the version shows."""
        return sha256_file(self.results.folders["evaluate"] / "evaluation.json")

    @property
    def gate_sha256(self) -> str:
        """Which gate split a decision on it is taken."""
        return sha256_file(self.results.folders["prepare"] / "gate.parquet")


@explained
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
        candidate = _Candidate(
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
    shortened = ("dataset", "name", "version", "aliases", "champion", "reason", "rebuild")
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


def _register(connection: Connection, candidate: _Candidate, root: Path, out: Path) -> dict[str, JSON]:
    client, name = connection.client, candidate.name
    _ensure_registered_model(connection, candidate)
    # From the look for what is there already to the aliases: the same run may be going on elsewhere.
    with deciding(connection, name, root, patience=_PATIENCE_SECONDS) as turn:
        version = _version(connection, candidate) or _make_version(connection, candidate)
        number = str(version.version)
        if version.tags.get(DONE) != "complete":
            _note_version(connection, version)
            _decide(connection, candidate, number, turn, root)
            client.set_model_version_tag(name, number, DONE, "complete")
        elif version.tags.get(_EVALUATION) not in (None, candidate.evaluation_sha256):
            _show_evaluation(connection, candidate, version)
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
        "rebuild": candidate.rebuildable.said,
        "adapter_sha256": candidate.adapter.sha256,
        "model_id": str(version.tags["model_id"]) if "model_id" in version.tags else None,
    }


def _make_version(connection: Connection, candidate: _Candidate) -> Any:
    name, model_id = candidate.name, _logged_model(connection, candidate)
    with as_default(connection):
        version = connection.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=candidate.run.info.run_id,
            tags=_version_tags(candidate),
            model_id=model_id,
        )
    log.info("registered %s version %s", name, version.version)
    if candidate.rebuildable.said:
        log.warning("%s version %s: %s", name, version.version, candidate.rebuildable.said)
    return version


def _show_evaluation(connection: Connection, candidate: _Candidate, version: Any) -> None:
    """Bring a version up to date whose adapter was evaluated again, with other numbers. What was decided stays."""
    client, number = connection.client, str(version.version)
    log.warning("%s version %s was evaluated again: it shows the new numbers", candidate.name, number)
    _log_model_metrics(connection, candidate, version.source.removeprefix("models:/"), at=round(1000 * time.time()))
    decision = {key: version.tags[key] for key in ("decision", "reason", "gate_decisions") if key in version.tags}
    _describe(connection, candidate, number, decision)
    numbers = {name: value for name, value in _version_tags(candidate).items() if name.startswith("test_")}
    for name, value in {**numbers, _EVALUATION: candidate.evaluation_sha256}.items():
        client.set_model_version_tag(candidate.name, number, name, value)


def _describe(connection: Connection, candidate: _Candidate, version: str, decision: Mapping[str, JSON]) -> None:
    name = candidate.name
    card = model_card(
        candidate.results, candidate.adapter, candidate.settings, name=name, decision=decision, facts=candidate.facts
    )
    connection.client.update_model_version(name, version, card)


def _version(connection: Connection, candidate: _Candidate) -> Any | None:
    """The version that an earlier call made, finished or not."""
    for version in versions_of(connection, candidate.name):
        if all(version.tags.get(key) == value for key, value in candidate.identity.items()):
            return version
    return None


def _logged_model(connection: Connection, candidate: _Candidate) -> str:
    """The id of the MLflow model, found or made; one that was left half-written is made anew."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    client, run = connection.client, candidate.run.info.run_id
    wanted = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in candidate.identity.items())
    for found in every(client.search_logged_models, [connection.experiment], wanted):
        if found.status == LoggedModelStatus.READY:
            return str(found.model_id)
        client.delete_logged_model(found.model_id)
    term, dataset = "+".join(candidate.adapter.terms), candidate.results.name
    logged = client.create_logged_model(
        connection.experiment,
        name=shown(f"{dataset}-{term}", RUN_NAME),
        source_run_id=run,
        params={key: shown(value, 500) for key, value in candidate.adapter.provenance.get("training", {}).items()},
        tags={**candidate.identity, "dataset": dataset, "term": term, "base": candidate.adapter.base_id},
        model_type="bias adapter",
    )
    model = Model(
        artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run, model_id=logged.model_id
    )
    folder = Path(tempfile.mkdtemp(prefix="beft-model-"))
    try:
        save_model(
            folder / "model",
            candidate.results.folders["train"] / "adapter",
            candidate.adapter,
            model,
            base=resolve_base(candidate.settings.base.source).folder,
            pairs=bool(candidate.results.data.get("text_pairs")),
            seen=[row for split in ("train", "dev") for row in _ids(candidate, split)],
            metadata={
                "settings": candidate.settings.model_dump(mode="json", exclude=set(ELSEWHERE)),
                "facts": dict(candidate.facts),
            },
        )
        if not has_commit(candidate.facts):
            keep_source(PROJECT, folder / "model" / KEPT)
        client.log_model_artifacts(logged.model_id, str(folder / "model"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
    _log_model_metrics(connection, candidate, logged.model_id)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def _ids(candidate: _Candidate, split: str) -> list[str]:
    return load_split(candidate.results.folders["prepare"], split).ids


def _log_model_metrics(connection: Connection, candidate: _Candidate, model_id: str, *, at: int | None = None) -> None:
    """The test metrics once more, as the model's own: its page shows them beside the data set that they are of.

    Args:
        at: Their time in milliseconds; None for the end of the run.
    """
    from mlflow.entities import Metric

    evaluation, run = candidate.results.evaluation, candidate.run
    given = next((of.dataset for of in run.inputs.dataset_inputs if of.dataset.name == candidate.results.name), None)
    scores = evaluation.splits["test"].scores[evaluation.target]
    connection.client.log_batch(
        run.info.run_id,
        metrics=[
            Metric(
                f"test/{metric}",
                score.value,
                at or run.info.end_time or run.info.start_time,
                0,
                model_id=model_id,
                dataset_name=given.name if given else None,
                dataset_digest=given.digest if given else None,
                run_id=run.info.run_id,
            )
            for metric, score in scores.items()
        ],
    )


def _ensure_registered_model(connection: Connection, candidate: _Candidate) -> None:
    from mlflow.exceptions import MlflowException

    adapter, data = candidate.adapter, candidate.results.data
    tags = {"base": adapter.base_id, "base_sha256": adapter.base_sha256, "dataset": candidate.results.name}
    try:
        connection.client.create_registered_model(
            candidate.name,
            tags=tags,
            description=shown(
                f"Bias adapters of {adapter.base_id} for {data.get('title', candidate.results.name)}: "
                f"{', '.join(adapter.labels) or adapter.shape.name.replace('_', ' ')}.",
                REGISTRY_TEXT,
            ),
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        there = connection.client.get_registered_model(candidate.name).tags
        if any(there.get(key, value) != value for key, value in tags.items()):
            raise BeftError(
                f"the registered model {candidate.name!r} is of another base or dataset ({there.get('base')}, "
                f"{there.get('dataset')}); set tracking.model_prefix to another first part of the names"
            ) from None


def _note_version(connection: Connection, version: Any) -> None:
    """Tell the MLflow model which version it is, as MLflow's own registering does: the pages link them by this."""
    model_id = version.source.removeprefix("models:/")
    value = json.dumps([{"name": version.name, "version": int(version.version)}])
    connection.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": value})
    connection.client.set_model_version_tag(version.name, str(version.version), "model_id", model_id)


def _version_tags(candidate: _Candidate) -> dict[str, str]:
    adapter, facts, results = candidate.adapter, candidate.facts, candidate.results
    data, compute = facts["data"][results.name], facts.get("compute") or {}
    score = results.evaluation.splits["test"].scores[results.evaluation.target][results.metric]
    tags = {
        **candidate.identity,
        "dataset": results.name,
        "term": ", ".join(adapter.terms),
        "shape": adapter.shape.name,
        **({"labels": ", ".join(adapter.labels)} if adapter.labels else {}),
        "base": adapter.base_id,
        "base_sha256": adapter.base_sha256,
        _EVALUATION: candidate.evaluation_sha256,
        "data_md5": data.get("prepared_md5"),
        "raw_data_md5": data.get("raw_md5"),
        "data_sha256": data.get("prepared_sha256"),
        "source_sha256": facts.get("source_sha256"),
        "commit": facts.get("commit"),
        "dirty": facts.get("dirty"),
        "lock_sha256": facts.get("lock_sha256"),
        "requirements_sha256": facts.get("requirements_sha256"),
        "settings_sha256": sha256_json(candidate.settings.model_dump(mode="json", exclude=set(ELSEWHERE))),
        "device": compute.get("device"),
        "precision": compute.get("precision"),
        "threads": compute.get("threads"),
        "seed": candidate.settings.seed,
        "regime": candidate.settings.datasets[results.name].size,
        "protocol": candidate.settings.protocol,
        f"test_{results.metric}": f"{score.value:.4f}",
        f"test_{results.metric}_interval": f"{score.low:.4f} to {score.high:.4f}",
        **candidate.rebuildable.tags,
    }
    return {name: shown(value, REGISTRY_TEXT) for name, value in tags.items() if value is not None}


def _decide(connection: Connection, candidate: _Candidate, version: str, turn: Turn, root: Path) -> None:
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
            verdict = f"no champion, since {candidate.rebuildable.said}; its gain is certain on the gate split"
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
        client.set_model_version_tag(name, version, key, shown(value, REGISTRY_TEXT))
    _describe(connection, candidate, version, tags)
    moves = {CHAMPION: version} if tags["decision"] == CHAMPION else {}
    challenger = turn.aliases.get(CHALLENGER)
    if challenger not in there or int(challenger) < int(version):  # a registration that was cut short may end late
        moves[CHALLENGER] = version
    turn.move(moves, subject=[subject, "registered"], reason=tags["reason"])


register_step = Step(
    register,
    reads=("prepare", "validate_raw", "validate", "probe", "score", "train", "evaluate", "merge", "report"),
    sections=("*",),
    per_dataset=False,
    source=("mlflow/pyfunc_model.py",),
    still_good=still_registered,
)
