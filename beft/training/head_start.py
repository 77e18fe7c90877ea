"""Where the head starts before a training."""

import numpy as np
import torch
from torch import Tensor

from beft.encoding.examples import LabelledRows
from beft.heads.by_problem_type import linear_head
from beft.inference.features import extract_features
from beft.models.classifier import Classifier
from beft.process_state import with_own_threads
from beft.settings import Settings
from beft.sites.offloading import module_device
from beft.training.sample import Sample
from beft.training_settings import TrainingSettings


@with_own_threads
def head_start(
    classifier: Classifier, sample: Sample, settings: Settings, training: TrainingSettings | None = None
) -> dict[str, Tensor]:
    """Where the head starts: what is not named starts as the model has it.

    ``best_constant`` names the output layer's bias, where it is drawn and not the base's own: the biases of the base
    then do not have to find the values' mean, or the labels' frequencies, first of all (benchmarks/recipes.md); with
    balanced ``class_weights`` all labels are equally frequent. ``logistic_regression`` names the layer, as a linear
    model on what it sees (ridge regression of values, a conditional logit of choices): linear probing before fine-
    tuning.

    Args:
        training: What is trained from there; None: what the settings have by default. With a contrastive loss, which
            fits the head at last, ``auto`` is such a fit as well; likewise where words have tags, of which nearly all
            are O: from a head that knows no other tag a short training hardly comes to any.
    """
    kind = settings.head_init
    training = training or TrainingSettings()
    of_words = classifier.problem_type.reads_words and settings.protocol != "paper"
    if settings.head.init == "auto" and (training.contrastive or of_words):
        kind = "logistic_regression"
    if kind == "random" or not classifier.problem_type.has_head:
        return {}
    if kind == "best_constant":
        return _best_constant(classifier, sample, balanced=training.class_weights == "balanced")

    def seen(rows: LabelledRows) -> tuple[np.ndarray, LabelledRows]:
        return extract_features(classifier, rows.encoded, "head").numpy(), rows

    weight, bias = linear_head(
        classifier.problem_type,
        len(classifier.labels),
        seen(sample.train),
        seen(sample.dev) if sample.dev else None,
        metric=sample.metric,
        seed=settings.seed,
        intercept=classifier.output_layer.bias is not None,
    )
    device = module_device(classifier.output_layer)
    start = {f"{classifier.output_name}.weight": weight.to(device)}
    if classifier.output_layer.bias is not None:
        start[f"{classifier.output_name}.bias"] = bias.to(device)
    return start


def _best_constant(classifier: Classifier, sample: Sample, *, balanced: bool) -> dict[str, Tensor]:
    bias = f"{classifier.output_name}.bias"
    targets = np.unique(sample.train.labels) if balanced else sample.train.labels
    constant = classifier.problem_type.best_constant(targets, len(classifier.labels))
    if constant is None or bias not in classifier.newly_initialized:
        return {}
    return {bias: constant.to(module_device(classifier.output_layer), torch.float32)}
