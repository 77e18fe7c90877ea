"""A candidate of a run as a version of a registered model, with its files, metrics, tags and description."""

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
from beft.files import sha256_file, sha256_json
from beft.models.reference import resolve_base
from tasks.engine.declaration import JSON
from tasks.project_files import PROJECT
from tasks.registry.card import model_card
from tasks.registry.package import save_model
from tasks.registry.rebuildable import Rebuildable, has_commit, rebuildable
from tasks.reporting.results import DatasetResults
from tasks.settings import PipelineSettings
from tasks.source_archive import SOURCE_ARCHIVE, archive_source
from tasks.tracking.connection import Connection, as_default, every, versions_of
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.flat_settings import NON_TRAINING_SECTIONS
from tasks.tracking.limits import REGISTRY_TEXT, RUN_NAME

log = logging.getLogger(__name__)


EVALUATION_TAG = "evaluation_sha256"
_MAX_FP32_WEIGHTS = 4_000_000_000  # bytes


@dataclass(frozen=True)
class Candidate:
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


def make_version(connection: Connection, candidate: Candidate) -> Any:
    name, model_id = candidate.name, logged_model(connection, candidate)
    with as_default(connection):
        version = connection.client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=candidate.run.info.run_id,
            tags=_version_tags(candidate),
            model_id=model_id,
        )
    log.info("registered %s version %s", name, version.version)
    if candidate.rebuildable.summary:
        log.warning("%s version %s: %s", name, version.version, candidate.rebuildable.summary)
    return version


def show_evaluation(connection: Connection, candidate: Candidate, version: Any) -> None:
    """Bring a version up to date whose adapter was evaluated again, with other numbers. What was decided stays."""
    client, number = connection.client, str(version.version)
    log.warning("%s version %s was evaluated again: it shows the new numbers", candidate.name, number)
    log_model_metrics(connection, candidate, version.source.removeprefix("models:/"), at=round(1000 * time.time()))
    decision = {key: version.tags[key] for key in ("decision", "reason", "gate_decisions") if key in version.tags}
    describe(connection, candidate, number, decision)
    numbers = {name: value for name, value in _version_tags(candidate).items() if name.startswith("test_")}
    for name, value in {**numbers, EVALUATION_TAG: candidate.evaluation_sha256}.items():
        client.set_model_version_tag(candidate.name, number, name, value)


def describe(connection: Connection, candidate: Candidate, version: str, decision: Mapping[str, JSON]) -> None:
    name = candidate.name
    card = model_card(
        candidate.results, candidate.adapter, candidate.settings, name=name, decision=decision, facts=candidate.facts
    )
    connection.client.update_model_version(name, version, card)


def find_version(connection: Connection, candidate: Candidate) -> Any | None:
    """The version that an earlier call made, finished or not."""
    for version in versions_of(connection, candidate.name):
        if all(version.tags.get(key) == value for key, value in candidate.identity.items()):
            return version
    return None


def logged_model(connection: Connection, candidate: Candidate) -> str:
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
        name=as_mlflow_text(f"{dataset}-{term}", RUN_NAME),
        source_run_id=run,
        params={
            key: as_mlflow_text(value, 500) for key, value in candidate.adapter.provenance.get("training", {}).items()
        },
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
                "settings": candidate.settings.model_dump(mode="json", exclude=set(NON_TRAINING_SECTIONS)),
                "facts": dict(candidate.facts),
            },
        )
        write_references(folder / "model", candidate)
        if not has_commit(candidate.facts):
            archive_source(PROJECT, folder / "model" / SOURCE_ARCHIVE)
        client.log_model_artifacts(logged.model_id, str(folder / "model"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, 0)])
    log_model_metrics(connection, candidate, logged.model_id)
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def write_references(folder: Path, candidate: Candidate) -> None:
    """Keep with a model what a server checks it by, and what later traffic is compared with.

    That is its answer to a fixed text, and the features of its training rows. In fp32, unless the base is so large
    that the precision of the training is the one that the machine has room for.
    """
    from beft.inference.predictor import Predictor
    from beft.serving.canary import CANARY_FILE, Canary
    from beft.serving.reference import REFERENCE_FILE, DriftReference

    if not candidate.adapter.problem_type.has_head:  # it is not served
        return
    base = candidate.settings.base
    weights = sum(file.stat().st_size for file in resolve_base(base.source).folder.glob("*.safetensors"))
    predictor = Predictor(
        candidate.results.folders["train"] / "adapter",
        base=base.source,
        device=base.device,
        precision="fp32" if weights <= _MAX_FP32_WEIGHTS else base.precision,
    )
    Canary.of(predictor).write(folder / CANARY_FILE)
    train, dev = (load_split(candidate.results.folders["prepare"], split) for split in ("train", "dev"))
    DriftReference.of(predictor, train, dev if len(dev) else train).write(folder / REFERENCE_FILE)


def _ids(candidate: Candidate, split: str) -> list[str]:
    return load_split(candidate.results.folders["prepare"], split).ids


def log_model_metrics(connection: Connection, candidate: Candidate, model_id: str, *, at: int | None = None) -> None:
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


def ensure_registered_model(connection: Connection, candidate: Candidate) -> None:
    from mlflow.exceptions import MlflowException

    adapter, data = candidate.adapter, candidate.results.data
    tags = {"base": adapter.base_id, "base_sha256": adapter.base_sha256, "dataset": candidate.results.name}
    try:
        connection.client.create_registered_model(
            candidate.name,
            tags=tags,
            description=as_mlflow_text(
                f"Bias adapters of {adapter.base_id} for {data.get('title', candidate.results.name)}: "
                f"{', '.join(adapter.labels) or adapter.problem_type.name.replace('_', ' ')}.",
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


def note_version(connection: Connection, version: Any) -> None:
    """Tell the MLflow model which version it is, as MLflow's own registering does: the pages link them by this."""
    model_id = version.source.removeprefix("models:/")
    value = json.dumps([{"name": version.name, "version": int(version.version)}])
    connection.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": value})
    connection.client.set_model_version_tag(version.name, str(version.version), "model_id", model_id)


def _version_tags(candidate: Candidate) -> dict[str, str]:
    adapter, facts, results = candidate.adapter, candidate.facts, candidate.results
    data, compute = facts["data"][results.name], facts.get("compute") or {}
    score = results.evaluation.splits["test"].scores[results.evaluation.target][results.metric]
    tags = {
        **candidate.identity,
        "dataset": results.name,
        "term": ", ".join(adapter.terms),
        "shape": adapter.problem_type.name,
        **({"labels": ", ".join(adapter.labels)} if adapter.labels else {}),
        "base": adapter.base_id,
        "base_sha256": adapter.base_sha256,
        EVALUATION_TAG: candidate.evaluation_sha256,
        "data_md5": data.get("prepared_md5"),
        "raw_data_md5": data.get("raw_md5"),
        "data_sha256": data.get("prepared_sha256"),
        "source_sha256": facts.get("source_sha256"),
        "commit": facts.get("commit"),
        "dirty": facts.get("dirty"),
        "lock_sha256": facts.get("lock_sha256"),
        "requirements_sha256": facts.get("requirements_sha256"),
        "settings_sha256": sha256_json(candidate.settings.model_dump(mode="json", exclude=set(NON_TRAINING_SECTIONS))),
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
    return {name: as_mlflow_text(value, REGISTRY_TEXT) for name, value in tags.items() if value is not None}
