"""The cheap baselines of a problem type: what is fitted on the frozen base, and what they predict."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from beft.adapters.adapter import Adapter
from beft.comparison.baselines.by_folds import fit_by_folds
from beft.comparison.from_features import fit_head, fit_linear
from beft.datasets.prepared import Split
from beft.encoding.examples import LabelledRows, Predictions
from beft.evaluation.records import Cost
from beft.heads.by_problem_type import LINEAR_BASELINES
from beft.heads.linear import LinearClassifier
from beft.inference.features import Floats, extract_features, frozen_features
from beft.inference.predictions import as_metric_takes
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType
from beft.training.session import Session

log = logging.getLogger("beft.comparison")

HEAD_ONLY, LINEAR = "head_only", "logistic_regression"


@dataclass
class Baselines:
    """Fitted baselines by name: how they were fitted, what they predict on each split, and what they took.

    Attributes:
        head_features: What the head's output layer sees of the frozen base, by split, where it was computed.
        chosen_on_dev: Those that learnt from train alone, for dev chose their settings or their epoch.
    """

    fitted: dict[str, LinearClassifier] = field(default_factory=dict)
    predictions: dict[str, dict[str, Predictions]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    head_features: dict[str, Floats] = field(default_factory=dict)
    chosen_on_dev: list[str] = field(default_factory=list)


def cheap_baselines(
    session: Session, rows: Mapping[str, LabelledRows], *, only: Sequence[str] | None = None
) -> Baselines:
    """Fit the cheap baselines of the problem type, and predict test and gate with them.

    Under a head: the head alone, and a linear model on the frozen base's features. Without one: the base as it is, and
    where answers stand for labels, logistic regression on the features of the prompts.

    Args:
        rows: Of train, dev, and what is predicted; without dev, whose rows are then in train, settings are chosen by
            cross-validation.
        only: The baselines that are wanted; None: all.
    """
    if session.problem_type.has_head:
        return _under_a_head(session, rows, only)
    found = Baselines()
    if only is None or "untouched" in only:
        found.predictions["untouched"] = predict_splits(session, rows, held_out(rows), "the untouched base")
    if session.classifier.labels and (only is None or LINEAR in only):
        texts = {split: session.prompts(part) for split, part in rows.items()}
        features: dict[str, Floats] = {}
        for split, part in texts.items():
            log.info("evaluate: frozen features of %d %s prompts", len(part), split)
            tokens = session.settings.evaluate.batch_tokens
            of_split = extract_features(session.classifier, part.encoded, "pooled", batch_tokens=tokens)
            features[split] = of_split.double().numpy()
        fitted = fit_linear(session, features, texts, problem_type=Classification())
        _add(found, LINEAR, session, fitted, Classification(), features, texts)
    return found


def _under_a_head(session: Session, rows: Mapping[str, LabelledRows], only: Sequence[str] | None) -> Baselines:
    found, problem_type = Baselines(), session.problem_type
    linear = LINEAR_BASELINES[problem_type.name]
    wanted = [name for name in (HEAD_ONLY, linear) if only is None or name in only]
    if not wanted:
        return found
    features = {}
    for split, part in rows.items():
        log.info("evaluate: frozen features of %d %s rows", len(part), split)
        tokens = session.settings.evaluate.batch_tokens
        features[split] = frozen_features(session.classifier, part.encoded, batch_tokens=tokens)
    pooled = {split: of_split.pooled for split, of_split in features.items()}
    seen = found.head_features = {split: of_split.head for split, of_split in features.items()}
    if "dev" not in rows:
        by_name = fit_by_folds(session, pooled["train"], seen["train"], rows["train"])
        for name in wanted:
            _add(found, name, session, by_name[name], problem_type, pooled if name == linear else seen, rows)
        return found
    regression = fit_linear(session, pooled, rows) if linear in wanted else None
    if HEAD_ONLY in wanted:
        training, seed = session.head_training(), session.settings.seed
        start = regression if session.classifier.head_sees_pooled else None
        fitted = fit_head(session, seen, rows, training=training, seed=seed, start=start)
        _add(found, HEAD_ONLY, session, fitted, problem_type, seen, rows)
    if regression is not None:
        _add(found, linear, session, regression, problem_type, pooled, rows)
    return found


def _add(
    found: Baselines,
    name: str,
    session: Session,
    fitted: LinearClassifier,
    problem_type: ProblemType,
    features: Mapping[str, Floats],
    rows: Mapping[str, LabelledRows],
) -> None:
    """Add a fitted linear layer, with what it predicts on test and gate, as the headline metric takes it.

    Where labels have thresholds, its own are those that are best on dev, or on held-out rows of train where dev was
    learnt from, as the target's are.
    """
    found.fitted[name], found.costs[name] = fitted, fitted.cost()
    if "dev" in rows:
        found.chosen_on_dev.append(name)
    if fitted.problem_type is not None:
        problem_type = fitted.problem_type
    elif "dev" in rows:
        dev_outputs = torch.from_numpy(fitted.logits(features["dev"]))
        problem_type = problem_type.with_thresholds_on(dev_outputs, rows["dev"].labels)
    found.predictions[name] = {
        split: _predicted(session, problem_type, fitted.logits(features[split]), rows[split])
        for split in held_out(rows)
    }


def _predicted(session: Session, problem_type: ProblemType, logits: Floats, rows: LabelledRows) -> Predictions:
    predicted = problem_type.predictions_of(torch.from_numpy(logits), rows)
    return as_metric_takes(session.metric, predicted, rows)


def predict_without_biases(
    session: Session, adapter: Adapter, features: Mapping[str, Floats], rows: Mapping[str, LabelledRows], split: Split
) -> Predictions | None:
    """What an adapter's head predicts over the frozen base, from features that are there already.

    Args:
        features: What the head's output layer sees of the frozen base, by split.

    Returns:
        None where they are not there, or the head sees something else or is more than its output layer.
    """
    if adapter.pooling != session.classifier.pooling:
        return None
    if split not in features or set(adapter.head) != set(session.classifier.head_parameters("output")):
        return None
    parameters = {name.rsplit(".", 1)[1]: value.double().numpy() for name, value in adapter.head.items()}
    logits = features[split] @ parameters["weight"].T + parameters.get("bias", 0.0)
    return _predicted(session, adapter.problem_type, logits, rows[split])


def predict_splits(
    session: Session, rows: Mapping[str, LabelledRows], splits: Sequence[str], what: str
) -> dict[str, Predictions]:
    """What the classifier predicts as it is."""
    found: dict[str, Predictions] = {}
    for split in splits:
        log.info("evaluate: %s on %d %s rows", what, len(rows[split]), split)
        found[split] = session.predictions(rows[split])
    return found


def held_out(rows: Mapping[str, LabelledRows]) -> list[Split]:
    """The splits that are predicted: test, and gate where rows are kept for one."""
    splits: tuple[Split, ...] = ("test", "gate")
    return [split for split in splits if split in rows]
