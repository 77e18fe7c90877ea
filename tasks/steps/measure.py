"""measure: methods by seeds on one sample of a dataset, trained side by side and measured on its test rows.

A measurement is the unit in which ``beft reproduce`` plans, trains, resumes and reuses.
"""

import logging
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from beft.adapters.adapter import Adapter
from beft.comparison.measuring import measure_many
from beft.comparison.probe_scores import ScoredProbe, score_probes, scores_for
from beft.comparison.registry import METHODS, Kind, MethodOptions
from beft.comparison.result import MethodResult, MethodRun, NotAvailable
from beft.datasets.prepared import PreparedData
from beft.errors import InputError, TrainingError
from beft.files import write_json
from beft.importance.probe_result import Scores
from beft.inference.predictions import score_rows
from beft.settings import ALL_BIASES, TERMS
from beft.training.opening import open_session
from beft.training.sample import learnt_rows
from beft.training.session import Session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.reproduction.measured import Cost, Failed, Measured, Measurement, Scored
from tasks.settings import PipelineSettings
from tasks.steps.predictions import write_predictions

log = logging.getLogger("tasks")


def measure(
    settings: PipelineSettings,
    inputs: Mapping[str, Path],
    out: Path,
    *,
    dataset: str | None = None,
    checkpoints: Path | None = None,
) -> dict[str, JSON]:
    """Write ``records.json``, ``cost.json``, every run's predictions of the test rows, and adapters of the bias terms.

    Where all bias terms are trained as well, which is the probe, every term is scored by importance.

    Raises:
        InputError: The base cannot be reached, or none of the methods can be measured.
        TrainingError: Every run failed.
    """
    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    # What went before the interruption is in no clock of this process.
    interrupted = checkpoints is not None and any(checkpoints.iterdir())
    found = measure_many(session, _runs(session, settings), checkpoints=checkpoints, progress=log.info)
    results = [one for one in found if isinstance(one, MethodResult)]
    lacking = [one for one in found if isinstance(one, NotAvailable)]
    unavailable = {one.run.method: one.reason for one in lacking if not one.failed}
    failed = tuple(_failed(one) for one in lacking if one.failed)
    if not results:
        said = [*(f"{method}: {reason}" for method, reason in unavailable.items()), *(one.reason for one in failed)]
        raise (TrainingError if failed else InputError)("; ".join(said))
    probes = score_probes(session, results, progress=log.info)
    records = {
        one: _record(
            session, one, scores_for(one, probes), timed=not interrupted or METHODS[one.run.method] is not Kind.BIASES
        )
        for one in results
    }
    scored = tuple(_scored(one) for one in probes)
    Measurement(records=tuple(records.values()), unavailable=unavailable, scored=scored, failed=failed).save(out)
    for one, record in records.items():
        if one.run.method in TERMS:
            _adapter(session, one).save(out / "adapters" / record.key)
    for probed in probes:
        write_json(out / "importance" / f"{records[probed.probe].key}.json", probed.scores.to_json())
    predictions = {record.key: one.predictions for one, record in records.items()}
    ids = {"test": session.data.rows("test").ids}
    write_predictions(out / "predictions.parquet", ids, {"test": session.rows("test").truth}, predictions)
    return {record.key: record.scores[record.metric] for record in records.values()}


def _runs(session: Session, settings: PipelineSettings) -> list[MethodRun]:
    """Every method from every seed; bias terms with every learning rate and length that are compared."""
    requested, runs = settings.measure, []
    options = MethodOptions(
        learning_rate=requested.weight_learning_rate,
        weights_of=requested.random_weights_of,
        search_rates=requested.searches,
    )
    for method, seed in product(requested.methods, requested.seeds or (settings.seed,)):
        if METHODS.get(method) is not Kind.BIASES or not (
            requested.compared_learning_rates or requested.compared_epochs
        ):
            runs.append(MethodRun(method, seed, None, options))
            continue
        section = session.training(settings.probe if method == ALL_BIASES else settings.train)
        rates = [{"learning_rate": rate, "learning_rates": ()} for rate in requested.compared_learning_rates]
        lengths = [{"epochs": epochs} for epochs in requested.compared_epochs]
        for rate, length in product(rates or [{}], lengths or [{}]):
            runs.append(MethodRun(method, seed, section.model_copy(update={**rate, **length}), options))
    return runs


def _failed(one: NotAvailable) -> Failed:
    """A run that failed, with the setting in which it is compared."""
    training = one.run.training
    return Failed(
        method=one.run.method,
        seed=one.run.seed,
        learning_rate=None if training is None else training.learning_rate,
        epochs=None if training is None else training.epochs,
        reason=one.reason,
    )


def _scored(one: ScoredProbe) -> Scored:
    probe, scores = one.probe, one.scores
    assert probe.training is not None
    return Scored(
        seed=probe.run.seed,
        learning_rate=probe.training.learning_rate,
        epochs=probe.training.epochs,
        importance={term: scores.of_term(term) for term in scores.inert},
        inert={term: scores.is_inert(term) for term in scores.inert},
    )


def _record(session: Session, one: MethodResult, scores: Scores | None, *, timed: bool) -> Measured:
    settings, method = session.settings, one.run.method
    importance = selected = inert = None
    if scores is not None and method in scores.inert:
        importance, inert = scores.of_term(method), scores.is_inert(method)
        selected = scores.selection.term == method
    reference, rows = session.classifier.reference, session.facts["rows"]
    paper = settings.protocol == "paper"
    return Measured(
        base=settings.base.source if reference is None else reference.portable_id,
        dataset=session.dataset,
        regime=str(settings.datasets[session.dataset].size),
        rows={
            "train": learnt_rows(rows, settings.protocol),
            "dev": 0 if paper else rows["dev"],
            "test": rows["test"],
        },
        protocol=settings.protocol,
        method=method,
        seed=one.run.seed,
        draw=settings.split.draw,
        learning_rate=None if one.training is None else one.training.learning_rate,
        epochs=None if one.training is None else one.training.epochs,
        trials=one.trials,
        metric=session.metric,
        scores={name: score_rows(name, one.predictions["test"], session.rows("test")) for name in session.metrics},
        dev=one.dev,
        trained_parameters=one.trained_parameters,
        head_parameters=one.head_parameters,
        model_parameters=one.model_parameters,
        best_epoch=one.best_epoch,
        importance=importance,
        selected=selected,
        inert=inert,
        history=one.history,
        cost=Cost(
            seconds=round(one.seconds, 3) if timed else None,
            shared_with=one.runs_in_pass - 1,
            peak_memory_bytes=one.peak_memory_bytes,
        ),
    )


def _adapter(session: Session, one: MethodResult) -> Adapter:
    """The adapter of a bias term."""
    assert one.training is not None
    return session.adapter_of(
        (one.run.method,),
        one.deltas,
        one.head,
        seed=one.run.seed,
        training=one.training.model_dump(mode="json"),
        best_epoch=one.best_epoch,
    )


measure_step = Step(
    measure,
    reads=("prepare",),
    settings=(
        *CLASSIFIER_SECTIONS,
        "probe",
        "train",
        "score",
        "evaluate",
        "measure",
        "split.draw",
        "datasets.{dataset}.size",
        "datasets.{dataset}.epochs",
        "datasets.{dataset}.learning_rate",
    ),
    computes=True,
    isolated=True,
    tags=("gpu",),
)
