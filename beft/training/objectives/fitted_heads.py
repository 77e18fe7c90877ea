"""Heads that are fitted on the features that a pass has trained so far, as contrastive learning ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from beft.heads.by_problem_type import linear_head
from beft.inference.features import features_of_runs
from beft.inference.generation import Choose
from beft.inference.runs import LabelledRows, Metric, Run
from beft.models.classifier import Classifier
from beft.sites.offloading import module_device


@dataclass(frozen=True)
class FittedHead:
    """A fitted output layer, and what it gives on dev.

    Attributes:
        values: Its parameters by their names in the model; empty where a feature is NaN or infinite.
        on_dev: dev_loss and dev_metric; empty without dev.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    on_dev: dict[str, float] = field(default_factory=dict)


def fit_heads(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    metric: Metric,
    runs: Sequence[Run],
    numbers: Sequence[int],
    choose: Choose,
) -> list[FittedHead]:
    """Fit the head of some runs of a pass on train, its penalty chosen by the loss on dev where there is dev.

    Args:
        numbers: Which of the runs.
        choose: The attached bank's.
    """
    seen = features_of_runs(classifier, train.encoded, numbers, choose=choose)
    on_dev = None if dev is None else features_of_runs(classifier, dev.encoded, numbers, choose=choose)
    return [
        _fit_head(classifier, train, dev, metric, runs[number], seen[at], None if on_dev is None else on_dev[at])
        for at, number in enumerate(numbers)
    ]


def _fit_head(
    classifier: Classifier,
    train: LabelledRows,
    dev: LabelledRows | None,
    metric: Metric,
    run: Run,
    features: Tensor,
    dev_features: Tensor | None,
) -> FittedHead:
    own = np.arange(len(train)) if run.rows is None else np.array(run.rows)
    features = features[torch.from_numpy(own)]
    if not bool(features.isfinite().all() and (dev_features is None or dev_features.isfinite().all())):
        return FittedHead(on_dev={"dev_loss": float("nan"), "dev_metric": float("nan")})
    layer, problem_type = classifier.output_layer, classifier.problem_type
    weight, bias = linear_head(
        problem_type,
        len(classifier.labels),
        (features, train if run.rows is None else train.take(own)),
        None if dev is None or dev_features is None else (dev_features, dev),
        cross_validate=False,  # on features that these rows have moved, it would say nothing
        metric=getattr(metric, "name", "accuracy"),
        seed=run.seed,
        intercept=layer.bias is not None,
        balanced=run.settings.class_weights == "balanced",
    )
    values = {f"{classifier.output_name}.weight": weight.to(module_device(layer))}
    if layer.bias is not None:
        values[f"{classifier.output_name}.bias"] = bias.to(module_device(layer))
    if dev is None or dev_features is None:
        return FittedHead(values)
    outputs = dev_features.double() @ weight.double().T + bias.double()
    every = np.arange(len(dev))
    loss = problem_type.mean_loss(outputs, dev.targets(every), dev.sizes_of(every))
    predictions = problem_type.predictions(outputs, dev.sizes_of(every))
    return FittedHead(values, {"dev_loss": loss, "dev_metric": float(metric(predictions, dev.labels))})
