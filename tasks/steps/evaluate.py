"""evaluate: the target beside the probe and cheap baselines, on test; and the gain that decides, on gate."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from beft.adapters.adapter import Adapter
from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.datasets.prepared import PreparedData, load_split
from beft.encoding.examples import Predictions
from beft.evaluation.scores import Cost, Evaluation, Method, evaluate_methods
from beft.files import read_json, write_json
from beft.heads.by_shape import LINEAR_BASELINES, fit_linear_baseline
from beft.heads.linear import LinearClassifier
from beft.inference.features import Floats, FrozenFeatures, extract_features, frozen_features
from beft.inference.predictions import as_metric_takes
from beft.inference.runs import LabelledRows
from beft.metrics.registry import known_metric
from beft.problems.classification import Classification
from beft.problems.shape import Shape
from beft.training.session import Session, open_session
from tasks.engine.declaration import CLASSIFIER_SECTIONS, JSON, Step
from tasks.settings import PipelineSettings
from tasks.steps.predictions import write_predictions

log = logging.getLogger("tasks")

ALL_BIASES = "all_biases"


def evaluate(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write every method's predictions, its metrics with intervals, and the target's gain over each baseline.

    Raises:
        InputError: An adapter does not fit the base.
    """
    assert dataset is not None
    session = open_session(settings, PreparedData.from_folder(inputs["prepare"]))
    held = ("test", "gate") if session.facts["rows"]["gate"] else ("test",)
    rows = {split: session.rows(split) for split in ("train", "dev", *held)}
    folders = {ALL_BIASES: inputs["probe"], "target": inputs["train"]}
    target = str(read_json(inputs["train"] / "train.json")["target"])

    baselines, predictions = _baselines(session, rows)
    costs = {name: fitted.cost() for name, fitted in baselines.items()}
    compared = list(predictions)
    for name, folder in folders.items():
        method = target if name == "target" else name
        costs[method] = _cost(folder)
        # Promotion compares the target with the cheap baselines: the probe is not needed on gate.
        splits = held if name == "target" else ("test",)
        adapter = Adapter.load(folder / "adapter")
        with adapter.attached(session.classifier):
            predictions[method] = _predictions(session, rows, splits, "+".join(adapter.terms))
    log.info("evaluate: %d resamples", settings.evaluate.resamples)
    found = None
    for split in held:
        one = evaluate_methods(
            {
                name: Method({split: by_split[split]}, costs.get(name))
                for name, by_split in predictions.items()
                if split in by_split
            },
            {split: rows[split].truth},
            target=target,
            baselines=compared,
            metrics=_metrics(session),
            settings=settings.evaluate,
            seed=settings.seed,
        )
        found = one if found is None else found.model_copy(update={"splits": {**found.splits, **one.splits}})
    assert found is not None
    decision = found.decision("gate")
    write_json(
        out / "evaluation.json",
        {
            **found.to_json(),
            "decision": decision.model_dump(mode="json"),
            "tuning": {name: fitted.to_json() for name, fitted in baselines.items()},
            "truncated": {split: rows[split].encoded.truncated for split in rows},
        },
    )
    write_json(out / "metrics.json", _headlines(found))
    ids = {split: load_split(inputs["prepare"], split).ids for split in held}
    truth = {split: rows[split].truth for split in ids}
    write_predictions(out / "predictions.parquet", ids, truth, predictions)
    headline = found.splits["test"].scores[target][session.metric]
    return {
        "target": target,
        "metric": session.metric,
        "test": headline.value,
        "low": headline.low,
        "high": headline.high,
        "gate_passed": decision.passed,
    }


def _baselines(
    session: Session, rows: Mapping[str, LabelledRows]
) -> tuple[dict[str, LinearClassifier], dict[str, dict[str, Predictions]]]:
    """Fit the cheap baselines of the task's shape, and predict test and gate with them.

    Under a head: the head alone, and a linear model on the frozen base's features. Without one: the base as it is, and
    where answers stand for labels, logistic regression on the features of the prompts.
    """
    if session.shape.has_head:
        return _baselines_of_a_head(session, rows)
    predictions = {"untouched": _predictions(session, rows, _held(rows), "the untouched base")}
    if not session.classifier.labels:
        return {}, predictions
    texts = {split: session.prompts(part) for split, part in rows.items()}
    size = session.settings.evaluate.batch_size
    features: dict[str, Floats] = {}
    for split, part in texts.items():
        log.info("evaluate: frozen features of %d %s prompts", len(part), split)
        of_split = extract_features(session.classifier, part.encoded, "pooled", batch_size=size)
        features[split] = of_split.double().numpy()
    fitted, predictions["logistic_regression"] = _fit_linear(session, Classification(), features, texts)
    return {"logistic_regression": fitted}, predictions


def _baselines_of_a_head(
    session: Session, rows: Mapping[str, LabelledRows]
) -> tuple[dict[str, LinearClassifier], dict[str, dict[str, Predictions]]]:
    settings, shape = session.settings, session.shape
    features = {split: _features(session, split, part) for split, part in rows.items()}
    pooled = {split: of_split.pooled for split, of_split in features.items()}
    seen = {split: of_split.head for split, of_split in features.items()}
    linear, predicted_linearly = _fit_linear(session, shape, pooled, rows)
    labels = len(session.classifier.labels)
    start = fit_linear_baseline(shape, labels, seen, rows, metric=session.metric)
    head_only = fit_head_only(
        seen["train"],
        rows["train"],
        seen["dev"],
        rows["dev"],
        classes=shape.outputs(labels),
        metric=session.metric,
        search=HeadSearch.as_wide_as(session.training(settings.train)),
        starts={LINEAR_BASELINES[shape.name]: start.as_tensors()},
        seed=settings.seed,
        shape=shape,
    )
    name = LINEAR_BASELINES[shape.name]
    predictions = {"head_only": _predicted(session, head_only, shape, seen, rows), name: predicted_linearly}
    return {"head_only": head_only, name: linear}, predictions


def _features(session: Session, split: str, rows: LabelledRows) -> FrozenFeatures:
    log.info("evaluate: frozen features of %d %s rows", len(rows), split)
    return frozen_features(session.classifier, rows.encoded, batch_size=session.settings.evaluate.batch_size)


def _fit_linear(
    session: Session, shape: Shape, features: Mapping[str, Floats], rows: Mapping[str, LabelledRows]
) -> tuple[LinearClassifier, dict[str, Predictions]]:
    labels = len(session.classifier.labels)
    fitted = fit_linear_baseline(shape, labels, features, rows, metric=session.metric)
    return fitted, _predicted(session, fitted, shape, features, rows)


def _predicted(
    session: Session,
    fitted: LinearClassifier,
    shape: Shape,
    features: Mapping[str, Floats],
    rows: Mapping[str, LabelledRows],
) -> dict[str, Predictions]:
    """What a linear layer predicts on test and gate, as the headline metric takes it."""
    found: dict[str, Predictions] = {}
    for split in _held(rows):
        outputs = torch.from_numpy(fitted.logits(features[split]))
        predicted = shape.predictions(outputs, rows[split].sizes_of(np.arange(len(rows[split]))))
        found[split] = as_metric_takes(session.metric, predicted, rows[split])
    return found


def _predictions(
    session: Session, rows: Mapping[str, LabelledRows], splits: Sequence[str], what: str
) -> dict[str, Predictions]:
    """What the classifier predicts as it is."""
    found: dict[str, Predictions] = {}
    for split in splits:
        log.info("evaluate: %s on %d %s rows", what, len(rows[split]), split)
        found[split] = session.predictions(rows[split])
    return found


def _held(rows: Mapping[str, LabelledRows]) -> list[str]:
    """The splits that are predicted: test, and gate where rows are kept for one."""
    return [split for split in ("test", "gate") if split in rows]


def _cost(folder: Path) -> Cost:
    known = read_json(folder / "cost.json")
    return Cost(**{name: known[name] for name in Cost.model_fields})


def _headlines(found: Evaluation) -> dict[str, JSON]:
    """What ``dvc metrics`` shows: the target's headline metric on test and gate, its interval and its gains on test."""
    headline, test = found.metrics[0], found.splits["test"]
    score = test.scores[found.target][headline]
    gate = {"gate": {headline: found.splits["gate"].scores[found.target][headline].value}} if found.has_gate else {}
    return {
        "test": {headline: score.value, "low": score.low, "high": score.high},
        **gate,
        "test_gain_over": {baseline: gains[headline].difference for baseline, gains in test.gains.items()},
    }


def _metrics(session: Session) -> list[str]:
    """The dataset's metrics that take what its first one takes; of labels, those that are usual beside them."""
    further: tuple[str, ...] = ()
    if labels := len(session.classifier.labels):
        further = ("accuracy", "f1", "matthews") if labels == 2 else ("accuracy", "macro_f1")
    takes = known_metric(session.metric).takes
    named = dict.fromkeys((*session.metrics, *further))
    return [name for name in named if known_metric(name).takes == takes]


evaluate_step = Step(
    evaluate,
    reads=("prepare", "probe", "train"),
    sections=(
        *CLASSIFIER_SECTIONS,
        "train",
        "evaluate",
        "datasets.{dataset}.epochs",
        "datasets.{dataset}.learning_rate",
    ),
    computes=True,
    own_process=True,
    tags=("gpu",),
)
