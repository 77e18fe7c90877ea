"""The cheap baselines, fitted on the features of the frozen base, which runs once for all of them."""

import time
from collections.abc import Mapping

import torch

from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.comparison.common import Common
from beft.comparison.result import MethodResult, MethodRun
from beft.encoding.examples import LabelledRows
from beft.errors import InputError
from beft.heads.by_problem_type import LINEAR_BASELINES, fit_linear_baseline
from beft.heads.linear import LinearClassifier
from beft.inference.features import Floats
from beft.models.memory import PeakMemory
from beft.problems.problem_type import ProblemType
from beft.training.session import Session
from beft.training_settings import TrainingSettings


def fit_on_features(common: Common, requested: MethodRun) -> MethodResult:
    """A linear model on the pooled features, or the head's output layer on those that it sees.

    The linear model is logistic regression; of values ridge regression, of choices a conditional logit.

    Both are searched for on dev, the output layer as widely as the target's own learning rates and lengths.

    Raises:
        InputError: There is no head, there is no dev split, or train has one label only.
    """
    problem_type = common.classifier.problem_type
    if not problem_type.has_head:
        raise InputError(f"{requested.method} is of what is predicted by a head, and {problem_type.name} has none")
    if common.sample.dev is None:
        raise InputError(f"{requested.method} is chosen on dev, and there is no dev split (protocol: paper)")
    memory = PeakMemory(common.classifier.device)
    features, made = common.features("pooled" if requested.method == "logistic_regression" else "head")
    rows = {"train": common.sample.train, "dev": common.sample.dev}
    began = time.perf_counter()
    if requested.method == "logistic_regression":
        fitted = fit_linear(common.session, features, rows)
    else:
        training = requested.training or common.session.head_training()
        fitted = fit_head(common.session, features, rows, training=training, seed=requested.seed)
    problem_type = problem_type.with_thresholds_on(
        torch.from_numpy(fitted.logits(features["dev"])), common.sample.dev.labels
    )
    seconds = made + time.perf_counter() - began
    predictions = {
        split: problem_type.predictions_of(torch.from_numpy(fitted.logits(features[split])), of_split)
        for split, of_split in common.rows.items()
    }
    return MethodResult(
        run=requested,
        predictions=predictions,
        scores=common.scores(predictions),
        dev=fitted.details["dev"],
        trained_parameters=0,
        head_parameters=fitted.trainable_parameters,
        model_parameters=common.model_parameters,
        seconds=seconds,
        peak_memory_bytes=memory.above(),
        details=fitted.details,
    )


def fit_linear(
    session: Session,
    features: Mapping[str, Floats],
    rows: Mapping[str, LabelledRows],
    *,
    problem_type: ProblemType | None = None,
) -> LinearClassifier:
    """The linear model of the problem type on features, fitted on train and chosen on dev.

    Args:
        features: Of ``train`` and ``dev``, [sequences, hidden].
        rows: Their examples.
        problem_type: Another problem type than the session's.
    """
    labels = len(session.classifier.labels)
    balanced = session.settings.train.class_weights == "balanced"
    return fit_linear_baseline(
        problem_type or session.problem_type, labels, features, rows, metric=session.metric, balanced=balanced
    )


def fit_head(
    session: Session,
    features: Mapping[str, Floats],
    rows: Mapping[str, LabelledRows],
    *,
    training: TrainingSettings,
    seed: int,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """The head's output layer on the features that it sees, searched for as widely as ``training``; chosen on dev.

    Args:
        start: The linear model on these features, where it is fitted already.
    """
    problem_type = session.problem_type
    start = start or fit_linear(session, features, rows)
    return fit_head_only(
        features["train"],
        rows["train"],
        features["dev"],
        rows["dev"],
        classes=problem_type.outputs(len(session.classifier.labels)),
        metric=session.metric,
        search=HeadSearch.from_training(training),
        starts={LINEAR_BASELINES[problem_type.name]: start.as_tensors()},
        seed=seed,
        problem_type=problem_type,
    )
