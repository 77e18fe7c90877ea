"""measure: methods by seeds on one sample of a dataset, trained side by side and measured on its test rows.

A measurement is the unit in which ``beft reproduce`` plans, trains, resumes and reuses.
"""

import logging
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from beft.adapters.adapter import Adapter
from beft.bank.bank import Bank
from beft.comparison.common import Common
from beft.comparison.measuring import measure_many
from beft.comparison.registry import METHODS, Kind, MethodOptions
from beft.comparison.result import MethodResult, MethodRun, NotAvailable
from beft.datasets.prepared import PreparedData, load_split
from beft.errors import BeftError, InputError, TrainingError
from beft.files import write_json
from beft.importance.methods.fisher import fisher_information
from beft.importance.probe_result import ProbeResult, Scores
from beft.inference.predictions import score_rows
from beft.settings import TERMS
from beft.sites.site import read_bias
from beft.training.probe import labelled_batches
from beft.training.sample import learnt_rows
from beft.training.session import Session, open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.reproduction.measured import Cost, Failed, Measured, Measurement, Scored
from tasks.settings import PipelineSettings
from tasks.steps.predictions import write_predictions

log = logging.getLogger("tasks")

ALL_BIASES = "all_biases"


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
    probes = [(one, _scores_or_none(session, one)) for one in results if one.run.method == ALL_BIASES]
    scored = [(one, scores) for one, scores in probes if scores is not None]
    records = [
        _record(session, one, _beside(one, scored), timed=not interrupted or METHODS[one.run.method] is not Kind.BIASES)
        for one in results
    ]
    of_probes = tuple(_scored(one, scores) for one, scores in scored)
    Measurement(records=tuple(records), unavailable=unavailable, scored=of_probes, failed=failed).save(out)
    for record, one in zip(records, results, strict=True):
        if one.run.method in TERMS:
            _adapter(session, one).save(out / "adapters" / record.key)
    for one, scores in scored:
        key = next(record.key for record, result in zip(records, results, strict=True) if result is one)
        write_json(out / "importance" / f"{key}.json", scores.to_json())
    predictions = {record.key: one.predictions for record, one in zip(records, results, strict=True)}
    ids = {"test": load_split(inputs["prepare"], "test").ids}
    write_predictions(out / "predictions.parquet", ids, {"test": session.rows("test").truth}, predictions)
    return {record.key: record.scores[record.metric] for record in records}


def _runs(session: Session, settings: PipelineSettings) -> list[MethodRun]:
    """Every method from every seed; bias terms with every learning rate and length that are compared."""
    asked, runs = settings.measure, []
    options = MethodOptions(learning_rate=asked.weight_learning_rate, weights_of=asked.random_weights_of)
    for method, seed in product(asked.methods, asked.seeds or (settings.seed,)):
        if METHODS.get(method) is not Kind.BIASES or not (asked.compared_learning_rates or asked.compared_epochs):
            runs.append(MethodRun(method, seed, None, options))
            continue
        section = session.training(settings.probe if method == ALL_BIASES else settings.train)
        rates = [{"learning_rate": rate, "learning_rates": ()} for rate in asked.compared_learning_rates]
        lengths = [{"epochs": epochs} for epochs in asked.compared_epochs]
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


def _scores_or_none(session: Session, probe: MethodResult) -> Scores | None:
    """The importance of every term; None where the probe gives none, which costs no run its result."""
    try:
        return _scores(session, probe)
    except BeftError as error:
        log.warning("%s of seed %d scores no term: %s", probe.run.method, probe.run.seed, error)
        return None


def _scores(session: Session, probe: MethodResult) -> Scores:
    """The importance of every term by what the probe moved; Fisher is taken before it, from the head of its seed."""
    classifier, settings = session.classifier, session.settings
    common = Common(session, ("test",), log.info)
    train, sites = common.sample.train, tuple(probe.deltas)
    assert probe.training is not None
    batches = labelled_batches(classifier, train, probe.training.batch_size)
    with Bank(classifier.model, {}, common.head_start(probe.run.seed)):
        information = fisher_information(classifier, batches, sites)
    inert = common.inert(sites)
    before = {site: read_bias(classifier.model, site).cpu() for site in sites}
    after = {site: before[site] + probe.deltas[site] for site in sites}
    return ProbeResult(before, after, information, inert).scores(settings)


def _beside(one: MethodResult, scored: list[tuple[MethodResult, Scores]]) -> Scores | None:
    """The scores by the probe of the same seed and length; of several, by the one of the same learning rate."""
    if one.training is None:
        return None
    found = [
        (probe.training.learning_rate, scores)
        for probe, scores in scored
        if probe.training is not None and (probe.run.seed, probe.training.epochs) == (one.run.seed, one.training.epochs)
    ]
    same = [scores for rate, scores in found if rate == one.training.learning_rate]
    return same[0] if same else found[0][1] if len(found) == 1 else None


def _scored(probe: MethodResult, scores: Scores) -> Scored:
    assert probe.training is not None
    return Scored(
        seed=probe.run.seed,
        learning_rate=probe.training.learning_rate,
        epochs=probe.training.epochs,
        importance={term: {table.method: table.mean[term] for table in scores.tables} for term in scores.inert},
        inert={term: bool(facts["inert"]) for term, facts in scores.inert.items()},
    )


def _record(session: Session, one: MethodResult, scores: Scores | None, *, timed: bool) -> Measured:
    settings, method = session.settings, one.run.method
    importance = selected = inert = None
    if scores is not None and method in scores.inert:
        importance = {table.method: table.mean[method] for table in scores.tables}
        selected = scores.selection.term == method
        inert = bool(scores.inert[method]["inert"])
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
        cost=Cost(seconds=round(one.seconds, 3), shared_with=one.together - 1, peak_memory_bytes=one.peak_memory_bytes),
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
