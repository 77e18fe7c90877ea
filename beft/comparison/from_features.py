"""The cheap baselines, fitted on the features of the frozen base, which runs once for all of them."""

import time
from collections.abc import Mapping

import numpy as np
import torch

from beft.comparison.baselines.head_only import HeadSearch, fit_head_only
from beft.comparison.common import Common
from beft.comparison.result import MethodResult, MethodRun
from beft.encoding.examples import LabelledRows
from beft.errors import InputError
from beft.heads.by_shape import LINEAR_BASELINES, fit_linear_baseline
from beft.heads.linear import LinearClassifier
from beft.inference.features import Floats
from beft.models.memory import PeakMemory


def fit_on_features(common: Common, asked: MethodRun) -> MethodResult:
    """A linear model on the pooled features, or the head's output layer on those that it sees.

    The linear model is logistic regression; of values ridge regression, of choices a conditional logit.

    Both are searched for on dev, the output layer as widely as the target's own learning rates and lengths.

    Raises:
        InputError: There is no head, there is no dev split, or train has one label only.
    """
    shape = common.classifier.shape
    if not shape.has_head:
        raise InputError(f"{asked.method} is of what is predicted by a head, and {shape.name} has none")
    if common.sample.dev is None:
        raise InputError(f"{asked.method} is chosen on dev, and there is no dev split (protocol: paper)")
    memory = PeakMemory(common.classifier.device)
    features, made = common.features("pooled" if asked.method == "logistic_regression" else "head")
    rows = {"train": common.sample.train, "dev": common.sample.dev}
    began = time.perf_counter()
    if asked.method == "logistic_regression":
        fitted = _linear(common, features, rows)
    else:
        fitted = _head_only(common, asked, features, rows)
    seconds = made + time.perf_counter() - began
    predictions = {
        split: shape.predictions(
            torch.from_numpy(fitted.logits(features[split])), of_split.sizes_of(np.arange(len(of_split)))
        )
        for split, of_split in common.rows.items()
    }
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


def _linear(common: Common, features: Mapping[str, Floats], rows: Mapping[str, LabelledRows]) -> LinearClassifier:
    labels = len(common.classifier.labels)
    return fit_linear_baseline(common.classifier.shape, labels, features, rows, metric=common.sample.metric)


def _head_only(
    common: Common, asked: MethodRun, features: Mapping[str, Floats], rows: Mapping[str, LabelledRows]
) -> LinearClassifier:
    training = asked.training or common.session.training(common.settings.train)
    shape = common.classifier.shape
    return fit_head_only(
        features["train"],
        rows["train"],
        features["dev"],
        rows["dev"],
        classes=shape.outputs(len(common.classifier.labels)),
        metric=common.sample.metric,
        search=HeadSearch.as_wide_as(training),
        starts={LINEAR_BASELINES[shape.name]: _linear(common, features, rows).as_tensors()},
        seed=asked.seed,
        shape=shape,
    )
