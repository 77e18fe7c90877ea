"""Where the head starts before a training."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from beft.encoding.examples import LabelledRows
from beft.errors import InputError
from beft.heads.by_problem_type import head_operations, linear_head
from beft.inference.features import extract_features
from beft.models.classifier import Classifier
from beft.models.device import Compute, resolve_compute
from beft.models.heads.mask_head import word_outputs
from beft.process_state import with_own_threads
from beft.settings import Settings
from beft.sites.offloading import module_device
from beft.training.sample import Sample
from beft.training_settings import TrainingSettings

log = logging.getLogger("beft.training.head_start")


@with_own_threads
def head_start(
    classifier: Classifier, sample: Sample, settings: Settings, training: TrainingSettings | None = None
) -> dict[str, Tensor]:
    """Where the head starts: what is not named starts as the model has it.

    ``best_constant`` names the output layer's bias, where it is drawn and not the base's own: the biases of the base
    then do not have to find the values' mean, or the labels' frequencies, first of all
    (benchmarks/quality/recipes.md); with balanced ``class_weights`` all labels are equally frequent.
    ``logistic_regression`` names the layer, as a linear model on what it sees (ridge regression of values, a
    conditional logit of choices): linear probing before fine-tuning; with the same ``class_weights``.

    ``label_words`` are the base's own logits of a word for each label, where the head sees a mask token: a null prompt
    (Logan et al. 2021, arXiv 2106.13353).

    Args:
        training: What is trained from there; None: what the settings have by default. With a contrastive loss, which
            fits the head at last, ``auto`` is such a fit as well; likewise where words have tags, of which nearly all
            are O: from a head that knows no other tag a short training hardly comes to any.

    Raises:
        InputError: The head is to start at words, and the labels are none that the base knows.
    """
    training = training or TrainingSettings()
    kind = _kind(classifier, settings, training)
    if kind == "random" or not classifier.problem_type.has_head:
        return {}
    if kind == "best_constant":
        return _best_constant(classifier, sample, balanced=training.class_weights == "balanced")
    if kind == "label_words":
        weight, bias = label_word_outputs(classifier, settings.head.label_words, resolve_compute(settings.base))
        return _on_device(classifier, weight, bias)

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
        balanced=training.class_weights == "balanced",
    )
    return _on_device(classifier, weight, bias)


def start_operations(
    classifier: Classifier, settings: Settings, training: TrainingSettings, rows: int, width: int
) -> float:
    """About how many operations the linear model takes at which a head starts without dev; 0 where it starts otherwise.

    Args:
        training: What is trained from there.
        rows: Of the features.
        width: Columns of the features.
    """
    if _kind(classifier, settings, training) != "logistic_regression":
        return 0.0
    return head_operations(classifier.problem_type, len(classifier.labels), rows, width)


def _kind(classifier: Classifier, settings: Settings, training: TrainingSettings) -> str:
    """Where a head starts, by its name in ``head.init``."""
    if settings.head.init != "auto":
        return settings.head.init
    of_words = classifier.problem_type.reads_words and settings.protocol != "paper"
    if training.contrastive or of_words:
        return "logistic_regression"
    kind = settings.head_init
    return "best_constant" if kind == "label_words" and classifier.problem_type.name != "classification" else kind


def _on_device(classifier: Classifier, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
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


def label_word_outputs(classifier: Classifier, words: Mapping[str, str], compute: Compute) -> tuple[Tensor, Tensor]:
    """The output layer that gives the base's own logits of a word for each label at a mask token.

    Args:
        words: By label, perhaps those of other datasets too; a label that it lacks is its own word, with a space for
            each underscore. A word of several tokens counts with the mean of their rows.

    Returns:
        Weight [labels, hidden] and bias [labels], fp32 or wider.

    Raises:
        InputError: A word has no token of its own, or two labels have the same.
    """
    if others := sorted(set(words) - set(classifier.labels)):
        log.warning("head.label_words names %s, but here the labels are %s", others[0], ", ".join(classifier.labels))
    if classifier.reference is None or classifier.mask_head is None:
        raise InputError("head.init: label_words needs a base from files and head.pooling: mask")
    tokenizer = classifier.tokenizer
    found: dict[str, list[int]] = {}
    for label in classifier.labels:
        word = words.get(label, label.replace("_", " "))
        # With a space: in byte-pair vocabularies the words of a running text begin with one.
        ids = tokenizer(f" {word.strip()}", add_special_tokens=False)["input_ids"]
        if not ids or tokenizer.unk_token_id in ids:
            raise InputError(
                f"the base's tokenizer has no token for {word!r}, the word of the label {label!r}: name another one in "
                "head.label_words"
            )
        if ids in found.values():
            other = next(name for name, known in found.items() if known == ids)
            raise InputError(
                f"the labels {other!r} and {label!r} have the same word {word!r}: name others in head.label_words"
            )
        found[label] = ids
    return word_outputs(classifier.reference.folder, compute, list(found.values()))
