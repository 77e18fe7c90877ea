"""evaluate: the target beside the probe and two cheap baselines, on test; and the gain that decides, on gate."""

import logging
from collections.abc import Mapping
from pathlib import Path

from beft.adapter import Adapter
from beft.baselines import HeadSearch, LinearClassifier, fit_head_only, fit_logistic_regression
from beft.classifier import Classifier
from beft.datasets import load_split
from beft.evaluation import Cost, Method, evaluate_methods
from beft.features import Floats, frozen_features, predict_probabilities
from beft.files import read_json, write_json
from beft.opened import Opened, open_classifier
from beft.runs import LabelledRows
from tasks.predictions import write_predictions
from tasks.settings import PipelineSettings
from tasks.step import CLASSIFIER_SECTIONS, JSON, Step

log = logging.getLogger("tasks")

BASELINES = ("head_only", "logistic_regression")
ALL_BIASES = "all_biases"


def evaluate(
    settings: PipelineSettings, inputs: Mapping[str, Path], out: Path, *, dataset: str | None = None
) -> dict[str, JSON]:
    """Write every method's predictions, its metrics with intervals, and the target's gain over each baseline.

    Raises:
        InputError: An adapter does not fit the base.
    """
    assert dataset is not None
    opened = open_classifier(settings, inputs["prepare"], dataset)
    classifier = opened.classifier
    rows = {split: opened.rows(split) for split in ("train", "dev", "test", "gate")}
    folders = {ALL_BIASES: inputs["probe"], "target": inputs["train"]}
    target = str(read_json(inputs["train"] / "train.json")["target"])

    baselines, probabilities = _baselines(opened, rows)
    costs = {name: fitted.cost() for name, fitted in baselines.items()}
    for name, folder in folders.items():
        method = target if name == "target" else name
        costs[method] = _cost(folder)
        # Promotion compares the target with the two baselines: the probe is not needed on gate.
        splits = ("test", "gate") if name == "target" else ("test",)
        probabilities[method] = _adapter_probabilities(
            classifier, Adapter.load(folder / "adapter"), {split: rows[split] for split in splits}, settings
        )
    log.info("evaluate: %d resamples", settings.evaluate.resamples)
    found = None
    for split in ("test", "gate"):
        one = evaluate_methods(
            {
                name: Method({split: by_split[split]}, costs[name])
                for name, by_split in probabilities.items()
                if split in by_split
            },
            {split: rows[split].truth},
            target=target,
            baselines=BASELINES,
            metrics=list(dict.fromkeys([*opened.facts["metrics"], *_further(len(classifier.labels))])),
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
    ids = {split: load_split(inputs["prepare"], split).ids for split in ("test", "gate")}
    write_predictions(out / "predictions.parquet", ids, {split: rows[split].truth for split in ids}, probabilities)
    headline = found.splits["test"].scores[target][opened.metric]
    return {
        "target": target,
        "metric": opened.metric,
        "test": headline.value,
        "low": headline.low,
        "high": headline.high,
        "gate_passed": decision.passed,
    }


def _baselines(
    opened: Opened, rows: Mapping[str, LabelledRows]
) -> tuple[dict[str, LinearClassifier], dict[str, dict[str, Floats]]]:
    """Fit both baselines on the frozen base's features, made in one pass, and predict test and gate."""
    settings, classifier = opened.settings, opened.classifier
    pooled, seen = {}, {}
    for split, part in rows.items():
        log.info("evaluate: frozen features of %d %s rows", len(part), split)
        features = frozen_features(classifier, part.encoded, batch_size=settings.evaluate.batch_size)
        pooled[split], seen[split] = features.pooled, features.head
    classes, truth = len(classifier.labels), {split: part.labels for split, part in rows.items()}
    regression = fit_logistic_regression(
        pooled["train"], truth["train"], pooled["dev"], truth["dev"], classes=classes, metric=opened.metric
    )
    start = fit_logistic_regression(
        seen["train"], truth["train"], seen["dev"], truth["dev"], classes=classes, metric=opened.metric
    )
    head_only = fit_head_only(
        seen["train"],
        truth["train"],
        seen["dev"],
        truth["dev"],
        classes=classes,
        metric=opened.metric,
        search=HeadSearch.as_wide_as(opened.training(settings.train)),
        starts={"logistic_regression": start.as_tensors()},
        seed=settings.seed,
    )
    predicted = {
        "head_only": {split: head_only.probabilities(seen[split]) for split in ("test", "gate")},
        "logistic_regression": {split: regression.probabilities(pooled[split]) for split in ("test", "gate")},
    }
    return {"head_only": head_only, "logistic_regression": regression}, predicted


def _adapter_probabilities(
    classifier: Classifier, adapter: Adapter, rows: Mapping[str, LabelledRows], settings: PipelineSettings
) -> dict[str, Floats]:
    with adapter.attached(classifier):
        found = {}
        for split, part in rows.items():
            log.info("evaluate: %s on %d %s rows", "+".join(adapter.terms), len(part), split)
            batch_size = settings.evaluate.batch_size
            found[split] = predict_probabilities(classifier, part.encoded, batch_size=batch_size).double().numpy()
        return found


def _cost(folder: Path) -> Cost:
    known = read_json(folder / "cost.json")
    return Cost(**{name: known[name] for name in Cost.model_fields})


def _further(labels: int) -> tuple[str, ...]:
    """Metrics that are reported beside the dataset's own."""
    return ("accuracy", "f1", "matthews") if labels == 2 else ("accuracy", "macro_f1")


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
