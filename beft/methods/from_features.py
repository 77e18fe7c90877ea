"""The cheap baselines, fitted on the features of the frozen base, which runs once for all of them."""

import time
from collections.abc import Mapping

import numpy as np

from beft.baselines import HeadSearch, LinearClassifier, fit_head_only, fit_logistic_regression
from beft.errors import InputError
from beft.features import Floats
from beft.methods.common import Common
from beft.methods.memory import PeakMemory
from beft.methods.result import MethodResult, MethodRun

Labels = np.ndarray


def fit_on_features(common: Common, asked: MethodRun) -> MethodResult:
    """Logistic regression on the pooled features, or the head's output layer on those that it sees.

    Both are searched for on dev, the output layer as widely as the target's own learning rates and lengths.

    Raises:
        InputError: It is no classification by a head, there is no dev split, or train has one label only.
    """
    if not common.classifies:
        raise InputError(f"{asked.method} is of classification by a head, not of {common.classifier.shape.name}")
    if common.sample.dev is None:
        raise InputError(f"{asked.method} is chosen on dev, and there is no dev split (protocol: paper)")
    memory = PeakMemory(common.classifier.device)
    features, made = common.features("pooled" if asked.method == "logistic_regression" else "head")
    labels = {"train": common.sample.train.labels, "dev": common.sample.dev.labels}
    began = time.perf_counter()
    if asked.method == "logistic_regression":
        fitted = _logistic_regression(common, features, labels)
    else:
        fitted = _head_only(common, asked, features, labels)
    seconds = made + time.perf_counter() - began
    predictions = {split: fitted.probabilities(features[split]) for split in common.rows}
    return MethodResult(
        run=asked,
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


def _logistic_regression(
    common: Common, features: Mapping[str, Floats], labels: Mapping[str, Labels]
) -> LinearClassifier:
    return fit_logistic_regression(
        features["train"],
        labels["train"],
        features["dev"],
        labels["dev"],
        classes=len(common.classifier.labels),
        metric=common.sample.metric,
    )


def _head_only(
    common: Common, asked: MethodRun, features: Mapping[str, Floats], labels: Mapping[str, Labels]
) -> LinearClassifier:
    training = asked.training or common.opened.training(common.settings.train)
    return fit_head_only(
        features["train"],
        labels["train"],
        features["dev"],
        labels["dev"],
        classes=len(common.classifier.labels),
        metric=common.sample.metric,
        search=HeadSearch.as_wide_as(training),
        starts={"logistic_regression": _logistic_regression(common, features, labels).as_tensors()},
        seed=asked.seed,
    )
