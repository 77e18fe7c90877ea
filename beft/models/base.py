"""Load a pre-trained base for a task."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beft.errors import InputError
from beft.models.base_files import read_mapping
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.gguf import gguf_configuration
from beft.models.heads.mask_head import load_mask_head
from beft.models.heads.own_head import fit_own_head
from beft.models.language_model import LanguageModel
from beft.models.loading import load_model, quiet_transformers
from beft.models.pooling import base_pooling, unused_modules
from beft.models.reference import BaseReference
from beft.models.token_classifier import TokenClassifier
from beft.models.tokenizer_loading import load_tokenizer
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType

log = logging.getLogger("beft.models.base")


def load_classifier(
    reference: BaseReference,
    labels: Sequence[str],
    *,
    compute: Compute,
    pooling: str = "auto",
    seed: int = 0,
    problem_type: ProblemType | None = None,
    weights: bool = True,
) -> Classifier:
    """Load a base for a task: frozen, in evaluation mode; a head that it lacks is drawn from ``seed``.

    The base is cast once, here; its weights go from the file straight to the device. The process's random state is
    left as it was.

    Args:
        labels: The names of the classes, in the order of the logits.
        problem_type: What its outputs mean; None: classification. One without a head gives a ``LanguageModel``.
        pooling: ``auto`` takes the base's own pooling configuration (see ``beft.models.pooling``), else ``model``.
        weights: Whether the weights are read; without them everything is checked, but nothing can be computed.

    Raises:
        InputError: The folder holds no model that transformers can load as a sequence classifier (or language model),
            or not all of it, its tokenizer does not fit it, it asks for a pooling that is not known, or it is quantised
            and cannot be computed here.
    """
    problem_type = problem_type or Classification()
    outputs = problem_type.outputs(len(labels)) if problem_type.has_head else 0
    of_words = problem_type.reads_words
    if of_words and pooling not in ("auto", "model"):
        raise InputError(f"head.pooling is {pooling!r}, but the head reads every word by itself: set it to auto")
    pooling = "model" if of_words else pooling
    automatic = pooling == "auto" and problem_type.has_head
    if automatic:
        pooling = base_pooling(reference.folder)
    model, tokenizer, newly_initialized = load_parts(
        reference.folder, outputs, compute, seed, weights=weights, of_words=of_words
    )
    if not problem_type.has_head:
        return LanguageModel(model, tokenizer, reference, tuple(labels), problem_type)
    if automatic and pooling != "model":
        _warn_of_unused(reference.folder, tokenizer)
    kind = TokenClassifier if of_words else Classifier
    mask_head = load_mask_head(reference.folder, compute, weights=weights) if pooling == "mask" else None
    classifier = kind(model, tokenizer, reference, tuple(labels), pooling, newly_initialized, problem_type, mask_head)
    names = {f"{classifier.output_name}.{name}" for name, _ in classifier.output_layer.named_parameters()}
    named = problem_type.output_names(labels)
    if not names & set(newly_initialized) and fit_own_head(model, classifier.output_layer, named, seed):
        classifier.newly_initialized = tuple(sorted({*newly_initialized, *names}))
    return classifier


def load_parts(
    folder: Path, outputs: int, compute: Compute, seed: int = 0, *, weights: bool = True, of_words: bool = False
) -> tuple[Any, Any, tuple[str, ...]]:
    """A base's model with so many outputs (0: a language model), its tokenizer, and the names of what was drawn.

    Args:
        of_words: Whether the outputs are those of every token, rather than of a sequence.

    Raises:
        InputError: As ``load_classifier``.
    """
    with quiet_transformers():
        model, newly_initialized = load_model(folder, outputs, compute, seed, weights=weights, of_words=of_words)
        tokenizer = load_tokenizer(folder, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer, newly_initialized


def _warn_of_unused(folder: Path, tokenizer: Any) -> None:
    """Say what sentence-transformers would do to texts and vectors that beft does not."""
    if modules := unused_modules(folder):
        log.warning("the head sees what the base pools, without its %s of modules.json", ", ".join(modules))
    own = folder / "sentence_bert_config.json"
    cased = tokenizer("Good FILM")["input_ids"] != tokenizer("good film")["input_ids"]
    if own.is_file() and read_mapping(own).get("do_lower_case") and cased:
        log.warning("%s asks for lower-cased texts, which beft does not make: lower-case yours", own)
    own = folder / "config_sentence_transformers.json"
    if own.is_file() and read_mapping(own).get("default_prompt_name"):
        log.warning("%s asks for a prompt before each text (default_prompt_name), which beft omits", own)


def usual_length(folder: Path) -> int | None:
    """The tokens that sentence-transformers cuts texts to for a base, which may take more; None where it says nothing.

    Raises:
        InputError: It is no number.
    """
    path = folder / "sentence_bert_config.json"
    found = read_mapping(path).get("max_seq_length") if path.is_file() else None
    if found is not None and (type(found) is not int or found < 1):
        raise InputError(f"{path}: max_seq_length is {found!r}; write a number of tokens, or leave it out")
    return found


def is_decoder(reference: BaseReference) -> bool:
    """Whether a base is a causal language model: of a type that predicts the next token, and never a masked one."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config = gguf_configuration(reference.folder) or read_mapping(reference.folder / "config.json")
    kind = config.get("model_type")
    masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.get("is_encoder_decoder", False)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked
